"""Pages over a million deliveries: each within half a second, however they are filtered.

With LARGE_TABLE_ROWS=5000000 and `-o faulthandler_timeout=0` over five million; filling the tables
then takes three minutes.
"""

import os
import time
from collections.abc import Callable

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client

from projects.models import User
from webhooks import service
from webhooks.admin.base import LIST_SECONDS
from webhooks.models import Delivery, Webhook

ROWS = int(os.environ.get("LARGE_TABLE_ROWS", "1000000"))
DAYS = 30
WEBHOOKS = 1000
MOST_SECONDS = 0.5

# An id made at a time: 48 bits of milliseconds, and the rest by chance.
ID = """(lpad(to_hex((extract(epoch FROM {time}) * 1000)::int8), 12, '0') || '7'
    || substr(md5({salt} || i), 1, 3) || '8' || substr(md5({salt} || i), 4, 15))::uuid"""

FILL_SQL = f"""
CREATE TEMPORARY TABLE webhook_of AS
    SELECT (row_number() OVER (ORDER BY id) - 1)::int AS number, id, owner_id FROM webhooks_webhook;
CREATE TEMPORARY TABLE made AS
    SELECT i, made_at, {ID.format(time="made_at", salt="'e'")} AS event_id,
           {ID.format(time="made_at", salt="'d'")} AS delivery_id, w.id AS webhook_id, w.owner_id,
           CASE WHEN i % 50 = 0 THEN 'FAILED' WHEN made_at > now() - interval '1 hour' AND i % 20 = 1
                THEN 'RETRYING' ELSE 'SUCCESS' END AS status
      FROM (SELECT i, now() - (i::float8 / {ROWS}) * interval '{DAYS} days' AS made_at
              FROM generate_series(1, {ROWS}) AS i) AS numbered
      JOIN webhook_of w ON w.number = (i::int8 * 7919) % {WEBHOOKS};
INSERT INTO webhooks_event (id, type, owner_id, payload, fanout_count, object_reference, created_at)
    SELECT event_id, 'session.ended', owner_id, '{{"id":"x"}}', 1, '', made_at FROM made ORDER BY i DESC;
INSERT INTO webhooks_delivery
    (id, event_id, webhook_id, owner_id, event_type, status, attempt_count, round,
     attempts_before_round, next_attempt_at, is_suspect, crash_count, response_code, failure_kind,
     error, created_at, delivered_at, finished_at)
    SELECT delivery_id, event_id, webhook_id, owner_id, 'session.ended', status, 1, 1, 0,
           CASE WHEN status = 'RETRYING' THEN now() + interval '1 hour' END, false, 0,
           CASE status WHEN 'SUCCESS' THEN 200 ELSE 503 END,
           CASE status WHEN 'SUCCESS' THEN '' ELSE 'http_status' END,
           CASE status WHEN 'SUCCESS' THEN '' ELSE 'The receiver answered 503.' END, made_at,
           CASE status WHEN 'SUCCESS' THEN made_at + interval '40 ms' END,
           CASE WHEN status <> 'RETRYING' THEN made_at + interval '41 ms' END
      FROM made ORDER BY i DESC;
INSERT INTO webhooks_attempt
    (id, delivery_id, number, started_at, duration_ms, url, request_head, response_code,
     is_truncated, failure_kind, error)
    SELECT {ID.format(time="made_at", salt="'a'")}, delivery_id, 1, made_at, 20 + i % 40,
           'https://receiver.example/', 'webhook-id: x',
           CASE status WHEN 'SUCCESS' THEN 200 ELSE 503 END, false,
           CASE status WHEN 'SUCCESS' THEN '' ELSE 'http_status' END, ''
      FROM made WHERE i <= {ROWS} / 5 ORDER BY i DESC;
DROP TABLE made;
"""  # noqa: S608


@pytest.mark.full
@pytest.mark.django_db(transaction=True)
def test_every_page_opens_within_half_a_second(staff: Callable[..., Client]) -> None:
    operator = staff()
    User.objects.filter(username="staff").update(is_superuser=True)
    fill()
    webhook = Webhook.objects.order_by("id")[0]
    delivery = Delivery.objects.filter(webhook=webhook).order_by("-id")[0]
    deliveries = "/admin/webhooks/delivery/"
    one = f"webhook={webhook.public_id}"
    pages = [
        "/admin/",
        "/admin/webhooks/webhook/",
        "/admin/webhooks/webhook/?state=failing",
        f"/admin/webhooks/webhook/{webhook.pk}/change/",
        f"/admin/webhooks/webhook/{webhook.pk}/deliveries/",
        f"/admin/webhooks/webhook/{webhook.pk}/deliveries/?status=FAILED",
        f"/admin/webhooks/webhook/{webhook.pk}/redeliver-failed/",
        deliveries,
        f"{deliveries}?p=100",
        f"{deliveries}?q={delivery.public_id}",
        f"{deliveries}?status=FAILED",
        f"{deliveries}?status=RETRYING",
        f"{deliveries}?status=PENDING&since=24h",
        f"{deliveries}?code=404&since=24h",
        f"{deliveries}?code=5xx",
        f"{deliveries}?kind=dns&since=24h",
        f"{deliveries}?type=session.ended&since=7d",
        f"{deliveries}?type=payment.failed&since=24h",
        f"{deliveries}?{one}",
        f"{deliveries}?{one}&status=FAILED",
        f"{deliveries}?{one}&status=CANCELLED",
        f"{deliveries}?{one}&status=FAILED&kind=dns&since=30d",
        f"{deliveries}?owner={webhook.owner_id}&status=CANCELLED",
        f"/admin/webhooks/delivery/{delivery.pk}/change/",
        "/admin/webhooks/event/",
        f"/admin/webhooks/event/?owner={webhook.owner_id}",
        f"/admin/webhooks/event/{delivery.event_id}/change/",
        "/admin/webhooks/redelivery/",
        f"/admin/webhooks/redelivery/new/?{one}&status=FAILED",
        "/admin/webhooks/workerheartbeat/",
        "/admin/webhooks/auditentry/",
        f"/admin/search/?extended=1&s={delivery.public_id}",
    ]

    took = {page: median_seconds(operator, page) for page in pages}

    for page, seconds in took.items():
        print(f"{seconds * 1000:6.0f} ms  {page}")  # noqa: T201
    assert {page: seconds for page, seconds in took.items() if seconds > MOST_SECONDS} == {}
    assert_gives_up_with_advice(operator, f"{deliveries}?code=418&kind=dns&type=payment.failed")


def assert_gives_up_with_advice(client: Client, page: str) -> None:
    """What nothing fits is looked for in all of the table, but not for long."""
    started_at = time.monotonic()
    answer = client.get(page)

    assert time.monotonic() - started_at < LIST_SECONDS + 1
    assert answer.status_code == 200 or b"takes too long" in answer.content


def fill() -> None:
    owners = [
        User.objects.create(username=f"owner{number}", email=f"owner{number}@example.com")
        for number in range(WEBHOOKS // 5)
    ]
    for number in range(WEBHOOKS):
        service.create_webhook(
            owners[number % len(owners)],
            name=f"Webhook {number}",
            url=f"https://receiver{number}.example/",
            events=["session.*"],
        )
    with connection.cursor() as cursor:
        for statement in FILL_SQL.split(";\n"):
            if statement.strip():
                cursor.execute(statement)
        cursor.execute("VACUUM ANALYZE webhooks_event, webhooks_delivery, webhooks_attempt")


def median_seconds(client: Client, page: str) -> float:
    times = []
    for _ in range(3):
        cache.clear()
        started_at = time.perf_counter()
        answer = client.get(page)
        times.append(time.perf_counter() - started_at)
        assert answer.status_code == 200, page
    return sorted(times)[1]
