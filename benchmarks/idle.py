"""What a worker and Postgres use while nothing can be sent, however much waits."""

import time
from collections.abc import Callable
from typing import Any

from django.db import connection

from benchmarks import harness
from benchmarks.harness import Goal, ProcessorTime, Series
from benchmarks.receiver import Receiver
from projects.models import User
from webhooks.models import Webhook

WEBHOOKS = 50_000
TROUBLED = 1_000
ROWS = 20
"""Due, of each troubled webhook."""
SETTLING_SECONDS = 10
SECONDS = 30

# Copies of one owner and of his webhook; without secrets of their own they cannot be sent to.
OWNERS_SQL = """
INSERT INTO projects_user
SELECT (jsonb_populate_record(u, jsonb_build_object(
           'id', gen_random_uuid(), 'username', 'w' || n, 'email', 'w' || n || '@example.com'))).*
  FROM projects_user u, generate_series(1, %(count)s) AS n
"""
COPY_SQL = """
INSERT INTO webhooks_webhook
SELECT (jsonb_populate_record(w, jsonb_build_object(
           'id', gen_random_uuid(), 'owner_id', u.id, 'name', u.username))).*
  FROM webhooks_webhook w JOIN projects_user u ON u.id <> w.owner_id
"""
ROWS_SQL = """
INSERT INTO webhooks_delivery
       (id, event_id, webhook_id, owner_id, event_type, status, attempt_count, round,
        attempts_before_round, is_suspect, crash_count, failure_kind, error, next_attempt_at)
SELECT gen_random_uuid(), gen_random_uuid(), w.id, w.owner_id, 'session.message', 'RETRYING', 1, 1,
       0, false, 0, '', '', clock_timestamp() + make_interval(secs => %(due)s)
  FROM webhooks_webhook w, generate_series(1, %(rows)s)
"""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    cases: dict[str, Callable[[], None]] = {
        "nothing at all": lambda: _fill(0, 0),
        f"{WEBHOOKS:,} webhooks with future retries": lambda: _fill(WEBHOOKS, 1, due_in=7200),
        f"{TROUBLED:,} unreadable webhooks": lambda: _fill(TROUBLED, ROWS),
        f"{TROUBLED:,} open breakers": _open_breakers,
        f"{TROUBLED:,} disabled webhooks": lambda: _fill(TROUBLED, ROWS, active=False),
        "all paused": _pause,
    }
    workers = [Series(f"{name}: worker", "% core") for name in cases]
    servers = [Series(f"{name}: Postgres", "% core") for name in cases]
    for _ in range(rounds):
        for fill, worker, server in zip(cases.values(), workers, servers, strict=True):
            harness.empty_tables()
            fill()
            harness.settle_down()
            used = _used()
            worker.values.append(used["sending thread"] + used["other threads"])
            server.values.append(used["Postgres"])
    goals = [Goal(series.name, series.median, 1.0, at_most=True) for series in workers]
    return harness.show("An idle worker", workers + servers, goals, digits=2)


def _used() -> dict[str, float]:
    """Return the percentages of a core that an idle worker and Postgres use."""
    with harness.running_workers(1) as processes:
        time.sleep(SETTLING_SECONDS)
        used = ProcessorTime(processes)
        time.sleep(SECONDS)
        return {part: 100 * seconds / SECONDS for part, seconds in used.seconds().items()}


def _fill(webhooks: int, rows: int, *, due_in: float = -3600, active: bool = True) -> None:
    if not webhooks:
        return
    first = harness.make_owners(1)
    harness.make_webhooks(first, "http://127.0.0.1:9/hook", active=active)
    with connection.cursor() as cursor:
        cursor.execute(OWNERS_SQL, {"count": webhooks - 1})
        cursor.execute(COPY_SQL)
        cursor.execute(ROWS_SQL, {"rows": rows, "due": due_in})
    assert User.objects.count() == Webhook.objects.count() == webhooks


def _open_breakers() -> None:
    harness.make_webhooks(harness.make_owners(TROUBLED), "http://127.0.0.1:9/hook")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhooks_webhook SET breaker_state = 'open', breaker_failures = 10,"
            " breaker_changed_at = clock_timestamp(), failing_since = clock_timestamp(),"
            " breaker_probe_at = clock_timestamp() + interval '1 hour'"
        )
        cursor.execute(ROWS_SQL, {"rows": ROWS, "due": -3600})


def _pause() -> None:
    _fill(TROUBLED, ROWS)
    harness.hold_back()
