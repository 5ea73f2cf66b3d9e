"""The horizon: the oldest transaction that may still store events (invariant 13).

The feed and ordered webhooks read events only below the horizon (webhooks_horizon(), migration
0006). Transactions that are known to belong to other databases of the cluster do not count, because
they cannot store events in this one. Prepared transactions count until they are committed or rolled
back. Replication slots and snapshots hold back vacuum, but not the horizon.
"""

from dataclasses import dataclass
from typing import Any

from django.db import connection

LONG_SECONDS = 5.0
"""The doctor and the screens name a transaction that holds the horizon back for longer."""

IS_IN_ORDER = """(
    (d.epoch, d.order_key) < ((SELECT webhooks_current_epoch()),
                              pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
    OR (d.epoch, d.order_key) < ((SELECT webhooks_current_epoch()),
                                 (SELECT webhooks_horizon()::text::bigint)))"""
"""An SQL condition: no delivery can be stored any more that precedes the delivery `d` with an order
key. The first comparison is cheap: the horizon is xmin or newer, and computing it reads all
sessions."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that has held the horizon back for some time."""

    seconds: float
    pid: int | None
    """None for a prepared transaction, which has no session, and for an invisible session."""
    database: str
    user: str
    application: str
    state: str
    """`state` of pg_stat_activity; empty if this role may not see it."""
    prepared_as: str
    """The name of a prepared transaction; empty for a session's transaction."""

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
            words.append("its session is not visible to this role")
        return f"{' '.join(words)}. Ordered webhooks and the feed wait for it to end."

    @property
    def mend(self) -> str:
        """The command that ends the transaction, or advice if none is known."""
        if self.prepared_as:
            name = self.prepared_as.replace("'", "''")
            return f"""manage.py dbshell -- -c "ROLLBACK PREPARED '{name}'" (or COMMIT PREPARED)"""
        if self.pid is not None:
            return f'manage.py dbshell -- -c "SELECT pg_terminate_backend({self.pid})"'
        return "Find it in pg_stat_activity and pg_prepared_xacts as a superuser, and end it"


# Most roles cannot see when another role's session began its transaction. The transaction is at least
# as old as the first event that waits for it, so the statement takes that event's time instead.
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
    """Return the transaction that has held the horizon back for longer than LONG_SECONDS, or None.

    One statement.
    """
    with connection.cursor() as cursor:
        cursor.execute(HOLDER_SQL)
        row: tuple[Any, ...] | None = cursor.fetchone()
    if row is None or row[0] is None or row[0] < LONG_SECONDS:
        return None
    return Holder(*row)
