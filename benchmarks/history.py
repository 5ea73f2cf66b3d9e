"""What a history of millions of attempts costs: statements and lists beside a database without any.

Both databases are in one server and are timed in turn; both have the same new deliveries.
"""

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connection, connections
from rest_framework.test import APIClient

from benchmarks import harness
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from webhooks.dispatch import life, quick, settle
from webhooks.dispatch.claim import ClaimOrder, claim_due
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.take import ClaimedDelivery
from webhooks.ids import new_id
from webhooks.models import ApiToken, Delivery, Webhook
from webhooks.outbox.event_data import encode
from webhooks.outbox.store import build_event, store_events
from webhooks.postgres.sql import set_up_connection

ATTEMPTS = int(os.environ.get("BENCH_HISTORY_ATTEMPTS", 5_000_000))
EACH = 10
"""The attempts of each delivery; each event has one delivery."""
DAYS = 30
OWNERS = 50
NEW = 6_000
"""New deliveries of one owner in both databases: more than a filtered list reads."""
BATCH = 300
"""Fewer than a worker may hold of one webhook."""
ONES = 40
PAGES = 5
ROUNDS = 25
MIN_RATIO = 0.95
EMPTY = "bench_empty"

LISTS = {
    "list": "deliveries?limit=100",
    "list by status": "deliveries?limit=100&status=SUCCESS",
    "list by status, none at all": "deliveries?limit=100&status=CANCELLED",
    "list by webhook": "deliveries?limit=100&webhook={webhook}",
    "list by event": "deliveries?event={event}",
    "list with attempts": "deliveries?limit=100&include=attempts",
    "delivery with its attempts": "deliveries/{delivery}",
    "events": "events?limit=100",
}

EVENTS_SQL = """
COPY webhooks_event (id, type, owner_id, payload, fanout_count, object_reference, created_at)
    FROM STDIN (FREEZE)
"""
DELIVERIES_SQL = """
COPY webhooks_delivery (id, event_id, webhook_id, owner_id, event_type, status, attempt_count, round,
    attempts_before_round, is_suspect, crash_count, failure_kind, error, response_code,
    next_attempt_at, created_at, finished_at, delivered_at) FROM STDIN (FREEZE)
"""
ATTEMPTS_SQL = """
COPY {table} (id, delivery_id, number, started_at, duration_ms, url, request_head, response_code,
    is_truncated, failure_kind, error) FROM STDIN (FREEZE)
"""
RESULT = {
    "number": 1, "status": "SUCCESS", "delay_seconds": None, "duration_ms": 3,
    "phases_us": [0, 0, 0, 1, 2, 3], "url": "http://127.0.0.1/", "body_sha256": "00" * 32,
    "request_head": "a: b\n" * 10, "code": 200, "response_head": "aGk=", "body": "b2s=",
    "is_truncated": False, "kind": "", "error": "", "spends_no_retry": False,
}  # fmt: skip


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    webhooks = harness.make_webhooks(owners, receiver.url)
    _, token = ApiToken.objects.issue(owners[0], name="bench", scopes=["read"], lifetime=None)
    with _empty_copy():
        started_at = time.monotonic()
        _fill(webhooks)
        print(
            f"\n{ATTEMPTS:,} attempts of {ATTEMPTS // EACH:,} deliveries by COPY in"
            f" {time.monotonic() - started_at:.0f} s, {_size()}",
            flush=True,
        )
        # Their start stores the new deliveries that lists show.
        systems = {name: System(name, webhooks[0], token) for name in (EMPTY, "full")}
        for number in range(max(ROUNDS, rounds)):
            # Each is the first one in half of the rounds.
            for system in list(systems.values())[:: -1 if number % 2 else 1]:
                system.measure()
        shown = {
            what: harness.show(
                f"{ATTEMPTS:,} attempts of {ATTEMPTS // EACH:,} deliveries over {DAYS} days stored"
                f" (the second line of each), beside none: {what}",
                [series for name in full for series in (empty[name], full[name])],
                [
                    Goal(f"{name}, empty / full", ratio(empty[name], full[name]), MIN_RATIO)
                    for name in full
                ],
                digits=3,
            )
            for what, empty, full in (
                ("time", systems[EMPTY].waited, systems["full"].waited),
                ("processor time", systems[EMPTY].used, systems["full"].used),
            )
        }
        for system in systems.values():
            system.close()
        harness.empty_tables()
    return shown


class System:
    """One of both databases, as a worker and as the site use it."""

    def __init__(self, name: str, webhook: Webhook, token: str) -> None:
        self._name = name if name == EMPTY else connection.settings_dict["NAME"]
        self._worker, self._site = (_connect(self._name) for _ in range(2))
        self._webhook = webhook
        self._id = new_id()
        self._endpoints = Endpoints()
        self._client = APIClient(SERVER_NAME="localhost")
        self._client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
        self._times: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self.waited: dict[str, Series] = {}
        self.used: dict[str, Series] = {}
        """Of processor time, which other programs on the machine change little."""
        with _used(self._worker):
            life.register_worker(self._id)
            set_up_connection("bench")
            for _ in range(NEW // BATCH):
                self._settle(self._claim(self._store(BATCH)))
            newest = Delivery.objects.filter(webhook=webhook).latest("id")
            self._names = {
                "webhook": webhook.public_id,
                "event": newest.event.public_id,
                "delivery": newest.public_id,
            }
            harness.execute("ANALYZE")
            harness.execute("SET synchronous_commit = off")

    def measure(self) -> None:
        """Note one round of everything."""
        with _used(self._worker):
            for _ in range(ONES):
                self._timed("store of one", lambda: self._store(1))
                taken = self._timed("quick claim of one", self._claim_one)
                self._timed("settle of one", partial(self._settle, taken))
            self._timed(f"store of {BATCH}", lambda: self._store(BATCH))
            taken = self._timed(f"claim of {BATCH}", lambda: self._claim(BATCH))
            self._timed(f"settle of {BATCH}", lambda: self._settle(taken))
        with _used(self._site):
            for name, path in LISTS.items():
                for _ in range(PAGES):
                    self._timed(name, partial(self._get, path))
        for name, times in self._times.items():
            label = name if self._name == EMPTY else f"{name}, full"
            for kind, values in zip(
                (self.waited, self.used), zip(*times, strict=True), strict=True
            ):
                series = kind.setdefault(name, Series(label, "ms"))
                series.values.append(statistics.median(values) * 1000)
        self._times.clear()

    def close(self) -> None:
        self._worker.close()
        self._site.close()

    def _timed(self, name: str, action: Callable[[], Any]) -> Any:
        used, started_at = _processor_seconds(), time.perf_counter()
        result = action()
        waited = time.perf_counter() - started_at
        self._times[name].append((waited, _processor_seconds() - used))
        return result

    def _claim_one(self) -> list[ClaimedDelivery]:
        taken, _ = quick.take_recent(self._id, 32, self._endpoints, rooms={}, back_seconds=2.0)
        assert len(taken.deliveries) == 1, len(taken.deliveries)
        return taken.deliveries

    def _store(self, count: int) -> int:
        data = encode(harness.message()).text
        events = [
            build_event("session.message", self._webhook.owner_id, data) for _ in range(count)
        ]
        store_events(events)
        return count

    def _claim(self, count: int) -> list[ClaimedDelivery]:
        order = ClaimOrder(self._id, count, [], lambda _, most: most)
        taken = claim_due(order, self._endpoints).taken.deliveries
        assert len(taken) == count, len(taken)
        return taken

    def _settle(self, taken: list[ClaimedDelivery]) -> None:
        results: list[Any] = [
            {**RESULT, "id": one.id.hex, "attempt_id": new_id().hex, "started_at": time.time()}
            for one in taken
        ]
        assert len(settle.settle(self._id, results).written) == len(taken)

    def _get(self, path: str) -> None:
        url = "/api/v1/" + path.format(**self._names)
        response = self._client.get(url)
        assert response.status_code == 200, (url, response.content)


def _processor_seconds() -> float:
    """Return the processor time of this process and of the backend of its connection, so far."""
    connection.ensure_connection()
    schedule = Path(f"/proc/{connection.connection.info.backend_pid}/schedstat").read_text()
    return time.process_time() + int(schedule.split()[0]) / 1e9


@contextmanager
def _empty_copy() -> Iterator[None]:
    """Have a copy of the database, which still has no event."""
    name = connection.settings_dict["NAME"]
    connection.close()
    with psycopg.connect(_address("postgres"), autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {EMPTY}")
        server.execute(f'CREATE DATABASE {EMPTY} TEMPLATE "{name}" STRATEGY file_copy')
        try:
            yield
        finally:
            server.execute(f"DROP DATABASE {EMPTY} WITH (FORCE)")
            server.execute("CHECKPOINT")


def _address(name: str) -> str:
    parameters = {**connection.get_connection_params(), "dbname": name}
    return psycopg.conninfo.make_conninfo(
        **{
            key: parameters[key]
            for key in ("dbname", "user", "host", "port")
            if parameters.get(key)
        }
    )


def _connect(name: str) -> Any:
    wrapper = connections.create_connection(DEFAULT_DB_ALIAS)
    wrapper.settings_dict = {**wrapper.settings_dict, "NAME": name}
    return wrapper


@contextmanager
def _used(wrapper: Any) -> Iterator[None]:
    """Let everything use this connection."""
    before = connections[DEFAULT_DB_ALIAS]
    connections[DEFAULT_DB_ALIAS] = wrapper
    try:
        yield
    finally:
        connections[DEFAULT_DB_ALIAS] = before


def _size() -> str:
    return str(harness.execute("SELECT pg_size_pretty(pg_database_size(current_database()))")[0][0])


# The history. Rows are frozen as they come, as those of days long ago are.


def _fill(webhooks: list[Webhook]) -> None:
    connection.ensure_connection()
    raw: psycopg.Connection[Any] = connection.connection
    # Up to the day before yesterday: FREEZE asks for a table that the transaction made or emptied, and
    # yesterday's partition was there before.
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    each_day = ATTEMPTS // EACH // DAYS
    days = [(end - timedelta(days=DAYS - n), n * each_day) for n in range(DAYS)]
    for table, sql, line in (
        ("event", EVENTS_SQL, _event), ("delivery", DELIVERIES_SQL, _delivery),
    ):  # fmt: skip
        with raw.transaction():
            raw.execute(f"TRUNCATE webhooks_{table}")
            _copy(
                raw,
                sql,
                (
                    line(*row)
                    for day, first in days
                    for row in _rows(day, first, each_day, webhooks)
                ),
            )
    for day, first in days:
        with raw.transaction():
            harness.make_partitions(day, day)
            sql = ATTEMPTS_SQL.format(table=f"webhooks_attempt_{day:%Y%m%d}")
            _copy(raw, sql, (_attempts(*row) for row in _rows(day, first, each_day, webhooks)))
    harness.execute("ANALYZE webhooks_event, webhooks_delivery, webhooks_attempt")
    harness.execute("CHECKPOINT")


def _copy(raw: psycopg.Connection[Any], sql: str, lines: Iterator[str]) -> None:
    with raw.cursor() as cursor, cursor.copy(sql) as copy:
        while text := "".join(islice(lines, 1000)):
            copy.write(text)


def _rows(
    day: datetime, first: int, count: int, webhooks: list[Webhook]
) -> Iterator[tuple[Any, ...]]:
    """Yield id, moment and webhook of a day's events, each of which has one delivery with its id."""
    start, step = int(day.timestamp() * 1000), 86_400_000 / count
    for number in range(first, first + count):
        milliseconds = start + int((number - first) * step)
        # Made like a UUIDv7, but never twice the same.
        identifier = f"{milliseconds:012x}70008{number:015x}"
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
        yield identifier, moment, webhooks[number % len(webhooks)]


def _event(identifier: str, moment: str, webhook: Webhook) -> str:
    return f"{identifier}\tsession.message\t{webhook.owner_id}\tx\t1\t\t{moment}\n"


def _delivery(identifier: str, moment: str, webhook: Webhook) -> str:
    return (
        f"{identifier}\t{identifier}\t{webhook.id}\t{webhook.owner_id}\tsession.message\tSUCCESS"
        f"\t{EACH}\t1\t0\tf\t0\t\t\t200\t\\N\t{moment}\t{moment}\t{moment}\n"
    )


def _attempts(identifier: str, moment: str, webhook: Webhook) -> str:
    return "".join(
        f"{identifier[:12]}7{n:03x}{identifier[16:]}\t{identifier}\t{n}\t{moment}\t20\t\t\t200\tf\t\t\n"
        for n in range(1, EACH + 1)
    )
