# ruff: noqa: S608 (constants, and conditions of copying.py)
"""The roll-ups of owners that move: each cell has counted other hours of other deliveries.

Readers take hours within the range of webhooks_rolledup from roll-ups, except for reopened ones, and
count all others (webhooks/figures/cells.py). So the range of the new cell must reach back as far as the
moved roll-ups do, and whatever is in its range without a roll-up must be reopened.
"""

from typing import NamedTuple

import psycopg

from cells.copying import Connection, MoveError, Owners
from webhooks.figures.cells import DAY_HOURS, hour_of_id_sql, hour_start
from webhooks.ids import first_id_of
from webhooks.repair.rollups import MERGE_SQL

RANGE_SQL = "SELECT first_hour, end_hour FROM webhooks_rolledup"
FIRST_SQL = "UPDATE webhooks_rolledup SET first_hour = %s"
HAS_FIGURES_SQL = "SELECT EXISTS (SELECT FROM webhooks_hourfigures WHERE {of_owners})"
OF_OWNERS = "owner_id::text = ANY({owners})"
# What this cell had counted one by one.
REOPEN_OLD_SQL = f"""
INSERT INTO webhooks_reopenedhour (webhook_id, owner_id, hour)
SELECT DISTINCT webhook_id, owner_id, {hour_of_id_sql("id")} FROM webhooks_delivery
 WHERE id >= %s AND id < %s
"""
# What the old cell had not counted.
REOPEN_MOVED_SQL = f"""
INSERT INTO webhooks_reopenedhour (webhook_id, owner_id, hour)
SELECT webhook_id, owner_id, hour
  FROM (SELECT DISTINCT webhook_id, owner_id, {hour_of_id_sql("id")} AS hour
          FROM webhooks_delivery WHERE {{of_owners}}) AS moved
 WHERE hour >= %(first)s AND hour < %(end)s
   AND NOT (hour >= %(old_first)s AND hour < %(old_end)s)
"""
# Days that are whole in the range only now: of the moved webhooks those at the ends of the old cell's
# range, of all others the one in which the new cell's range began.
UNMERGED_SQL = f"""
SELECT DISTINCT webhook_id, hour / {DAY_HOURS} * {DAY_HOURS} AS day
  FROM webhooks_hourfigures h
 WHERE hours = 1
   AND ({{of_owners}} OR hour / {DAY_HOURS} = %(began)s / {DAY_HOURS})
   AND hour / {DAY_HOURS} * {DAY_HOURS} >= %(first)s
   AND hour / {DAY_HOURS} * {DAY_HOURS} + {DAY_HOURS} <= %(end)s
   AND NOT EXISTS (SELECT FROM webhooks_hourfigures d
                    WHERE d.webhook_id = h.webhook_id AND d.hours = {DAY_HOURS}
                      AND d.hour = h.hour / {DAY_HOURS} * {DAY_HOURS})
"""


class Hours(NamedTuple):
    """The hours that a cell has rolled up."""

    first: int
    end: int


class Figures:
    """Locks the target's range until the end of its transaction, so that no hour is rolled up between.

    Raises MoveError where the target's housekeeping has never run, and could count the hours again.
    """

    def __init__(self, source: Connection, target: Connection, owners: Owners) -> None:
        self._target = target
        self._of_owners = owners.fill(OF_OWNERS)
        self._old = _hours(source, RANGE_SQL) or Hours(0, 0)
        kept = _hours(target, RANGE_SQL + " FOR UPDATE")
        has_figures = source.execute(HAS_FIGURES_SQL.format(of_owners=self._of_owners)).fetchone()
        if kept is None and has_figures == (True,):
            raise MoveError(
                "The new cell has no roll-ups yet: let a worker run there, and try again in a minute."
            )
        self._kept = kept or Hours(0, 0)

    @property
    def only(self) -> dict[str, str]:
        """Which roll-ups the target can use: of what comes later it makes its own."""
        last = f"t.hour + t.hours <= {self._kept.end}"
        return {"webhooks_hourfigures": last}

    def agree(self) -> None:
        """Let the target's range and reopened hours fit what was copied."""
        first = self._kept.first
        if self._old.end and self._kept.end:
            first = min(first, self._old.first)
        if first < self._kept.first:
            self._target.execute(FIRST_SQL, [first])
            ids = [first_id_of(hour_start(hour)) for hour in (first, self._kept.first)]
            self._target.execute(REOPEN_OLD_SQL + f" AND NOT {self._of_owners}", ids)
        hours = {"first": first, "end": self._kept.end}
        old = {"old_first": self._old.first, "old_end": self._old.end}
        reopen = REOPEN_MOVED_SQL.format(of_owners=self._of_owners)
        self._target.execute(reopen, hours | old)
        days = UNMERGED_SQL.format(of_owners=self._of_owners)
        merging = psycopg.ClientCursor(self._target)
        hours["began"] = self._kept.first
        for webhook, day in self._target.execute(days, hours).fetchall():
            merging.execute(MERGE_SQL, {"hours": DAY_HOURS, "hour": day, "webhook": webhook})


def _hours(connection: Connection, text: str) -> Hours | None:
    row = connection.execute(text).fetchone()
    return None if row is None else Hours(*row)
