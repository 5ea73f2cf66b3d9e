"""Listing deliveries among millions, with every filter that the API offers, and the portal's pages."""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

from benchmarks import harness, steady
from benchmarks.harness import Goal, Series
from benchmarks.receiver import Receiver
from projects.models import User
from webhooks.figures.pages import Cursor
from webhooks.ids import first_id_of
from webhooks.models import ApiToken, Delivery, HourFigures, Webhook
from webhooks.repair import rollups

ROWS = int(os.environ.get("BENCH_LIST_ROWS", 5_000_000))
OWNERS = 50
"""The first of them has a fifth of all rows."""
DAYS = 30
ASKED = 40
MAX_P95_MS = 50

FILTERS = {
    "no filter": "",
    "status, frequent": "status=SUCCESS",
    "status, one in a thousand": "status=FAILED",
    "status, none at all": "status=CANCELLED",
    "event type, frequent": "eventType=session.message",
    "event type, none at all": "eventType=payment.failed",
    "response class": "responseClass=5xx",
    "response class, none at all": "responseClass=3xx",
    "webhook": "webhook={webhook}",
    "webhook and status": "webhook={webhook}&status=FAILED",
    "event": "event={event}",
    "time range": "since={since}&until={until}",
    "time range and status": "since={since}&until={until}&status=FAILED",
    "search by id": "search={delivery}",
    "everything at once": "webhook={webhook}&status=FAILED&responseClass=5xx"
    "&eventType=session.message&since={since}&until={until}",
}

PORTAL = {
    "start": "",
    "webhook": "webhook/{webhook}/",
    "deliveries": "deliveries/",
    "live": "live/",
    "figures, 24 h": "figures/?range=24h",
    "figures, 7 d": "figures/?range=7d",
    "figures, 30 d": "figures/?range=30d",
    "figures, 30 d, one webhook": "figures/?range=30d&webhook={webhook}",
}
MAX_PAGE_MS = 200

COPY_SQL = """
COPY webhooks_delivery (id, event_id, webhook_id, owner_id, event_type, status, attempt_count,
    round, attempts_before_round, is_suspect, crash_count, failure_kind, error, response_code,
    next_attempt_at, created_at, finished_at, delivered_at) FROM STDIN
"""
# As many distinct durations as a receiver of 20 to 200 ms has.
ATTEMPTS_SQL = """
INSERT INTO webhooks_attempt (id, delivery_id, number, started_at, duration_ms, url, request_head,
    response_code, is_truncated, failure_kind, error)
SELECT id, id, 1, created_at, 20 + (random() * random() * 180)::int, '', '', response_code, false,
       failure_kind, ''
  FROM webhooks_delivery
"""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    webhooks = harness.make_webhooks(owners, receiver.url, each=3)
    started_at = time.monotonic()
    _fill(webhooks)
    print(f"\n{ROWS:,} deliveries by COPY in {time.monotonic() - started_at:.0f} s")
    asked = [(_client(owner), _samples(owner)) for owner in (owners[0], owners[-1])]
    series = [
        Series(name, "ms, p95", [max(_ask(client, query, rows) for client, rows in asked)])
        for name, query in FILTERS.items()
    ]
    worst = max(one.median for one in series)
    lists = harness.show(
        f"Pages of 100 of {ROWS:,} deliveries, at any depth, of a large and a small owner",
        series,
        [Goal("p95 of the slowest filter, ms", worst, MAX_P95_MS, at_most=True, form="{:,.1f}")],
        digits=1,
    )
    return {"lists": lists, "portal": _portal(owners[0])}


def _portal(owner: User) -> dict[str, Any]:
    """Measure the pages of the owner with a fifth of all rows, whose whole hours are rolled up."""
    started_at = time.monotonic()
    # To begin, to note what is to be waited for, and to look whether it has ended.
    for _ in range(4):
        while rollups.roll_up(share=1):
            pass
    count = HourFigures.objects.count()
    print(f"\n{count:,} roll-ups in {time.monotonic() - started_at:.0f} s")
    client = Client(SERVER_NAME="localhost")
    client.force_login(owner)
    webhook = Webhook.objects.filter(owner=owner).order_by("id")[0].public_id
    series = [
        Series(name, "ms, p95", [steady.percentile(_times(client, path, webhook), 0.95)])
        for name, path in PORTAL.items()
    ]
    worst = max(one.median for one in series)
    return harness.show(
        f"Pages of the portal of an owner with {ROWS // 5:,} of {ROWS:,} deliveries",
        series,
        [Goal("p95 of the slowest page, ms", worst, MAX_PAGE_MS, at_most=True, form="{:,.1f}")],
        digits=1,
    )


def _times(client: Client, path: str, webhook: str) -> list[float]:
    times = []
    for _ in range(ASKED // 2):
        started_at = time.perf_counter()
        response = client.get(f"/portal/{path.format(webhook=webhook)}")
        times.append((time.perf_counter() - started_at) * 1000)
        assert response.status_code == 200, (path, response.status_code)
    return times


def _fill(webhooks: list[Webhook]) -> None:
    harness.make_partitions(datetime.now(UTC) - timedelta(days=DAYS), datetime.now(UTC))
    raw: psycopg.Connection[Any] = connection.connection
    with raw.cursor() as cursor, cursor.copy(COPY_SQL) as copy:
        for line in _lines(webhooks):
            copy.write(line)
    with raw.cursor() as cursor:
        cursor.execute(ATTEMPTS_SQL)
    raw.execute("VACUUM ANALYZE webhooks_delivery")
    raw.execute("VACUUM ANALYZE webhooks_attempt")


def _lines(webhooks: list[Webhook]) -> Iterator[str]:
    """Yield rows in the order of their time, one owner in five rows the first."""
    start = datetime.now(UTC) - timedelta(days=DAYS)
    step = timedelta(days=DAYS) / ROWS
    for number in range(ROWS):
        large = number % 5 == 0
        webhook = webhooks[number // 5 % 3] if large else webhooks[3 + number % (len(webhooks) - 3)]
        moment = start + number * step
        # Made like a UUIDv7, but never twice the same.
        identifier = UUID(int=first_id_of(moment).int + number)
        failed = number % 997 == 0
        status, code, kind = ("FAILED", 503, "http_status") if failed else ("SUCCESS", 200, "")
        kinds = ("session.message", "project.updated", "recording.completed")
        waited = timedelta(milliseconds=20 + number * 7919 % 180)
        delivered = "\\N" if failed else moment + waited
        yield (
            f"{identifier}\t{identifier}\t{webhook.id}\t{webhook.owner_id}\t{kinds[number % 3]}\t"
            f"{status}\t1\t1\t0\tf\t0\t{kind}\t\t{code}\t\\N\t{moment}\t{moment}"
            f"\t{delivered}\n"
        )


def _client(owner: User) -> APIClient:
    _, token = ApiToken.objects.issue(owner, name="bench", scopes=["read"], lifetime=None)
    client = APIClient(SERVER_NAME="localhost")
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


def _ask(client: APIClient, query: str, samples: list[Delivery]) -> float:
    """Return the p95 in milliseconds over pages that start all over the owner's rows."""
    return steady.percentile([_once(client, query, sample) for sample in samples], 0.95)


def _samples(owner: User) -> list[Delivery]:
    """Return rows of an owner, evenly spread over time."""
    rows = Delivery.objects.filter(owner_id=owner.id).order_by("id")
    ids = list(rows.values_list("id", flat=True))
    return list(rows.filter(id__in=ids[:: max(1, len(ids) // ASKED)]))


def _once(client: APIClient, query: str, sample: Delivery) -> float:
    filled = query.format(
        webhook=f"whk_{sample.webhook_id.hex}",
        event=f"evt_{sample.event_id.hex}",
        delivery=sample.public_id,
        since=(sample.created_at - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        until=sample.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    url = f"/api/v1/deliveries?limit=100&cursor={Cursor(sample.id).encode()}&{filled}".rstrip("&")
    started_at = time.perf_counter()
    response = client.get(url)
    elapsed = time.perf_counter() - started_at
    assert response.status_code == 200, json.dumps(response.json())
    return elapsed * 1000
