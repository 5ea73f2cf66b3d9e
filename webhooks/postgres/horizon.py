"""The horizon: below it every transaction has ended that could still store events (invariant 13).

What is read in order is read up to here. Transactions of other databases of the cluster do not
count, since they cannot store events in this one; any other that is not known to be theirs does.
Prepared transactions count until they are committed or rolled back. Replication slots and snapshots
hold back vacuum, not this. (webhooks_horizon(), made in migration 0006.)
"""

from dataclasses import dataclass
from typing import Any

from django.db import connection

LONG_SECONDS = 5.0
"""A transaction that holds the horizon back for longer is worth a word."""

IS_IN_ORDER = """(
    (d.epoch, d.order_key) < ((SELECT webhooks_current_epoch()),
                              pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
    OR (d.epoch, d.order_key) < ((SELECT webhooks_current_epoch()),
                                 (SELECT webhooks_horizon()::text::bigint)))"""
"""Whether nothing can come any more before the delivery `d`, which has an order key. The horizon is
at xmin or behind it; looking at every session for it is spared where xmin is enough."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that has been holding the horizon back for some time."""

    seconds: float
    pid: int | None
    """None for a prepared transaction, which belongs to no session, and where nothing is known."""
    database: str
    user: str
    application: str
    state: str
    """As pg_stat_activity has it; empty where this role may not see it."""
    prepared_as: str
    """The name of a prepared transaction; empty for a session's."""

    def __str__(self) -> str:
        words = [f"A transaction that writes has been open for {self.seconds:.0f} s:"]
        if self.pid is not None:
            words.append(f"pid {self.pid}, database {self.database}, application")
            words.append(f"{self.application or 'unnamed'}, user {self.user}")
            words[-1] += f", {self.state}" if self.state else ""
        elif self.prepared_as:
            words.append(f"prepared as {self.prepared_as!r}, database {self.database},")
            words.append(f"user {self.user}")
        else:
            words.append("whose session cannot be seen")
        return f"{' '.join(words)}. Ordered webhooks and the feed wait for it to end."

    @property
    def mend(self) -> str:
        """The command that ends it."""
        if self.prepared_as:
            name = self.prepared_as.replace("'", "''")
            return f"""manage.py dbshell -- -c "ROLLBACK PREPARED '{name}'" (or COMMIT PREPARED)"""
        if self.pid is not None:
            return f'manage.py dbshell -- -c "SELECT pg_terminate_backend({self.pid})"'
        return "Look at pg_stat_activity and pg_prepared_xacts as a superuser, and end it"


# When a session of another role began its transaction is hidden from most; then it is at least as
# old as the first event that waits for it.
HOLDER_SQL = """
WITH held AS MATERIALIZED (
    SELECT webhooks_horizon() AS horizon
), waiting AS (
    SELECT e.created_at FROM webhooks_event e
     WHERE (e.epoch, e.transaction_id) >= (webhooks_current_epoch(), (SELECT horizon FROM held))
     ORDER BY e.epoch, e.transaction_id, e.sequence LIMIT 1
)
SELECT extract(epoch FROM clock_timestamp() - coalesce(
           session.xact_start, prepared.prepared, (SELECT created_at FROM waiting)))::float8,
       session.pid, coalesce(session.datname, prepared.database, ''),
       coalesce(session.usename, prepared.owner, ''), coalesce(session.application_name, ''),
       coalesce(session.state, ''), coalesce(prepared.gid, '')
  FROM held
  LEFT JOIN pg_stat_activity session ON session.backend_xid = held.horizon::xid
  LEFT JOIN pg_prepared_xacts prepared ON prepared.transaction = held.horizon::xid
 WHERE held.horizon < pg_snapshot_xmax(pg_current_snapshot())
   AND session.pid IS DISTINCT FROM pg_backend_pid()
"""


def holder() -> Holder | None:
    """Return who has been holding the horizon back for longer than LONG_SECONDS; None for nobody.

    One statement.
    """
    with connection.cursor() as cursor:
        cursor.execute(HOLDER_SQL)
        row: tuple[Any, ...] | None = cursor.fetchone()
    if row is None or row[0] is None or row[0] < LONG_SECONDS:
        return None
    return Holder(*row)
