"""The chore that rolls up whole hours and days, so that figures of weeks need not count every delivery.

An hour is rolled up once no transaction can add deliveries to it. Webhooks with unfinished deliveries
in it are left out as reopened, until these are finished.
"""

import time
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from webhooks.dispatch.life import MOST_CRASHES
from webhooks.figures.cells import (
    COLUMNS,
    COUNTS_SQL,
    DAY_HOURS,
    DURATIONS_SQL,
    FAILED_SQL,
    WAITS_SQL,
    hour_of,
    hour_start,
)
from webhooks.ids import first_id_of
from webhooks.models import Delivery, HourFigures, ReopenedHour, RolledUp
from webhooks.models.owner_keys import SQL_TYPE
from webhooks.postgres.sql import limited_transaction, query
from webhooks.repair.retention import SHARE, leave_to_the_workers

MARGIN = timedelta(minutes=10)
"""How far the clocks of the processes that make ids may be behind."""
OLDEST = timedelta(days=40)
"""Hours before the first roll-up's are always counted."""
TURN_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 600
"""How soon to look again at an hour with unfinished deliveries."""
REOPENED_PER_STEP = 20


def roll_up(share: float = SHARE) -> bool:
    """Roll up hours for about TURN_SECONDS; return whether there are more.

    `share` (0 to 1) is the share of time to spend in Postgres.
    """
    ends_at = time.monotonic() + TURN_SECONDS
    while time.monotonic() < ends_at:
        started_at = time.monotonic()
        if not (_next_hour() or _reopened_hours()):
            return False
        leave_to_the_workers(time.monotonic() - started_at, share)
    return True


def forget() -> None:
    """Delete all roll-ups: deliveries were mended, and the chore begins anew."""
    with transaction.atomic():
        RolledUp.objects.all().delete()
        HourFigures.objects.all().delete()
        ReopenedHour.objects.all().delete()


def _next_hour() -> bool:
    """Roll up the next hour; return whether there was one."""
    with limited_transaction():
        state = RolledUp.objects.select_for_update(skip_locked=True).first()
        if state is None:
            if not RolledUp.objects.exists():
                _begin()
            return False
        if state.end_hour >= state.settled_hour:
            _settle(state)
        if state.end_hour >= state.settled_hour:
            return False
        _roll(state.end_hour)
        state.end_hour += 1
        _merge(state, state.end_hour - 1)
        state.save(update_fields=["end_hour"])
        return True


def _begin() -> None:
    earliest = timezone.now() - OLDEST
    rows = Delivery.objects.filter(id__gte=first_id_of(earliest)).order_by("id")
    first = rows.values_list("id", flat=True).first()
    milliseconds = None if first is None else first.int >> 80
    hour = hour_of(timezone.now()) if milliseconds is None else milliseconds // 3_600_000
    RolledUp.objects.bulk_create([RolledUp(first_hour=hour, end_hour=hour)], ignore_conflicts=True)


TRANSACTIONS_SQL = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint, statement_timestamp()
"""


def _settle(state: RolledUp) -> None:
    """Note up to which hour no transaction can add deliveries: those that ran when it had passed have
    ended."""
    oldest, newest, now = query(TRANSACTIONS_SQL)[0]
    # After a restore, transaction ids may begin anew.
    if state.waits_for is not None and state.waits_for <= oldest:
        state.settled_hour, state.waits_for = state.settles_hour, None
    elif state.waits_for is None or state.waits_for > newest:
        state.waits_for, state.settles_hour = newest, hour_of(now - MARGIN)
    state.save(update_fields=["settled_hour", "waits_for", "settles_hour"])


DUE_SQL = """
SELECT DISTINCT webhook_id, hour
  FROM (SELECT webhook_id, hour FROM webhooks_reopenedhour
         WHERE due_at <= statement_timestamp() ORDER BY due_at LIMIT %(most)s) AS due
"""


def _reopened_hours() -> bool:
    """Roll up some reopened hours anew; return whether there were any."""
    due = query(DUE_SQL, {"most": REOPENED_PER_STEP})
    for webhook_id, hour in due:
        with limited_transaction():
            state = RolledUp.objects.select_for_update(skip_locked=True).first()
            if state is None:
                return False
            HourFigures.objects.filter(webhook_id=webhook_id, hours=1, hour=hour).delete()
            is_within = state.first_hour <= hour < state.end_hour
            _roll(hour, webhook_id, is_within=is_within)
            _merge(state, hour, webhook_id)
    return bool(due)


_COUNTED = (
    "deliveries", "succeeded", "failed", "cancelled", "sent", "parked", "last_success_at",
    "last_failure_at",
)  # fmt: skip
_LISTED = (
    "owner_id", "waits_ms", "wait_counts", "durations_ms", "duration_counts", "failures",
)  # fmt: skip
_GROUP = "webhook_id, event_type, starts_at"


def _part_sql(source: str, end: str = "", **columns: str) -> str:
    """Return the SELECT of one part of the figures: the named columns, and null for all others."""
    names = (*_COUNTED, *_LISTED)
    values = ", ".join(f"{columns.get(name, 'NULL')} AS {name}" for name in names)
    return f"SELECT {_GROUP}, {values} FROM ({source}) AS one {end}"  # noqa: S608 (constants)


def _keep_sql(
    source: str, starts_at: str, counts: str, waits: str, durations: str, failed: str
) -> str:
    """Return the statement that keeps the figures of the relation `chosen`, which `source` defines.

    The parts are stacked and grouped once more, not joined: Postgres takes the ids of an hour for a
    single row, whatever its statistics, and would compute one part for each row of another.
    """
    owners = (
        f"SELECT DISTINCT webhook_id, event_type, {starts_at} AS starts_at, owner_id FROM chosen"  # noqa: S608 (constants)
    )
    ms, count = "array_agg(ms ORDER BY ms)", "array_agg(count ORDER BY ms)"
    failures = "jsonb_agg(jsonb_build_array(kind, code, attempts, deliveries, last_at))"
    grouped = f"GROUP BY {_GROUP}"
    typed = dict.fromkeys(_LISTED, "NULL::bigint[]")
    typed |= {"owner_id": f"NULL::{SQL_TYPE}", "failures": "NULL::jsonb"}
    parts = [
        # The first one says what types the columns have.
        _part_sql(counts, **{name: name for name in _COUNTED}, **typed),
        _part_sql(owners, owner_id="owner_id"),
        _part_sql(waits, grouped, waits_ms=ms, wait_counts=count),
        _part_sql(durations, grouped, durations_ms=ms, duration_counts=count),
        _part_sql(failed, grouped, failures=failures),
    ]
    only = "(array_agg({0}) FILTER (WHERE {0} IS NOT NULL))[1]".format
    arrays = [f"coalesce(max({name}), '{{}}')" for name in _LISTED[1:-1]]
    return f"""{source}, parts AS ({" UNION ALL ".join(parts)})
INSERT INTO webhooks_hourfigures (
    hours, hour, webhook_id, event_type, starts_at, {", ".join(_COUNTED)}, {", ".join(_LISTED)})
SELECT %(hours)s, %(hour)s, {_GROUP}, {", ".join(f"max({name})" for name in _COUNTED)},
       {only("owner_id")}, {", ".join(arrays)}, coalesce({only("failures")}, '[]')
  FROM parts GROUP BY {_GROUP}
RETURNING 1
"""  # noqa: S608 (constants only)


# One snapshot: what changes meanwhile reopens the hour by a row that this statement does not see.
ROLL_SQL = _keep_sql(
    f"""
WITH page AS MATERIALIZED (
    SELECT {COLUMNS} FROM webhooks_delivery d
     WHERE d.id >= %(first)s AND d.id < %(last)s AND %(is_within)s
       AND (%(webhook)s::uuid IS NULL OR d.webhook_id = %(webhook)s)
), unfinished AS MATERIALIZED (
    SELECT DISTINCT webhook_id, owner_id FROM page WHERE finished_at IS NULL
), closed AS (
    DELETE FROM webhooks_reopenedhour
     WHERE webhook_id = %(webhook)s::uuid AND hour = %(hour)s
), reopened AS (
    INSERT INTO webhooks_reopenedhour (webhook_id, owner_id, hour, due_at)
    SELECT webhook_id, owner_id, %(hour)s,
           statement_timestamp() + make_interval(secs => %(again)s)
      FROM unfinished
), chosen AS MATERIALIZED (
    SELECT * FROM page WHERE webhook_id NOT IN (SELECT webhook_id FROM unfinished)
)""",  # noqa: S608 (constants only)
    "date_trunc('hour', created_at, 'UTC')",
    COUNTS_SQL,
    WAITS_SQL,
    DURATIONS_SQL,
    FAILED_SQL,
)

_DAY_START = "date_trunc('day', starts_at, 'UTC')"
_DAY = f"webhook_id, event_type, {_DAY_START} AS starts_at"

MERGE_SQL = _keep_sql(
    """
WITH chosen AS MATERIALIZED (
    SELECT * FROM webhooks_hourfigures h
     WHERE h.hours = 1 AND h.hour >= %(hour)s AND h.hour < %(hour)s + %(hours)s
       AND (%(webhook)s::uuid IS NULL OR h.webhook_id = %(webhook)s)
)""",
    _DAY_START,
    f"""
    SELECT {_DAY}, sum(deliveries) AS deliveries, sum(succeeded) AS succeeded,
           sum(failed) AS failed, sum(cancelled) AS cancelled, sum(sent) AS sent,
           sum(parked) AS parked, max(last_success_at) AS last_success_at,
           max(last_failure_at) AS last_failure_at
      FROM chosen GROUP BY 1, 2, 3""",  # noqa: S608 (constants only)
    f"""
    SELECT {_DAY}, one.ms, sum(one.count)::bigint AS count
      FROM chosen, unnest(waits_ms, wait_counts) AS one (ms, count)
     GROUP BY 1, 2, 3, 4""",  # noqa: S608 (constants only)
    f"""
    SELECT {_DAY}, one.ms, sum(one.count)::bigint AS count
      FROM chosen, unnest(durations_ms, duration_counts) AS one (ms, count)
     GROUP BY 1, 2, 3, 4""",  # noqa: S608 (constants only)
    f"""
    SELECT {_DAY}, one ->> 0 AS kind, (one ->> 1)::int AS code,
           sum((one ->> 2)::bigint)::bigint AS attempts,
           sum((one ->> 3)::bigint)::bigint AS deliveries,
           max((one ->> 4)::timestamptz) AS last_at
      FROM chosen, jsonb_array_elements(failures) AS one
     GROUP BY 1, 2, 3, 4, 5""",  # noqa: S608 (constants only)
)


def _roll(hour: int, webhook_id: Any = None, *, is_within: bool = True) -> None:
    parameters = {
        "hours": 1,
        "hour": hour,
        "webhook": webhook_id,
        "is_within": is_within,
        "first": first_id_of(hour_start(hour)),
        "last": first_id_of(hour_start(hour + 1)),
        "again": LOOK_AGAIN_SECONDS,
        "most_crashes": MOST_CRASHES,
    }
    query(ROLL_SQL, parameters)


def _merge(state: RolledUp, hour: int, webhook_id: Any = None) -> None:
    """Merge the hours of a day, if all of them are rolled up."""
    day = hour // DAY_HOURS * DAY_HOURS
    if day < state.first_hour or day + DAY_HOURS > state.end_hour:
        return
    merged = HourFigures.objects.filter(hours=DAY_HOURS, hour=day)
    (merged if webhook_id is None else merged.filter(webhook_id=webhook_id)).delete()
    query(MERGE_SQL, {"hours": DAY_HOURS, "hour": day, "webhook": webhook_id})
