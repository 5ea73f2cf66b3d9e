"""Make events and deliveries that have a past, with everything that belongs to them."""

import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.utils import timezone

from projects.models import User
from webhooks import service
from webhooks.dispatch.settle import Result
from webhooks.ids import first_id_of, new_id
from webhooks.models import Event

DELETED = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Website",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}


def trigger(owner: User, count: int = 1) -> list[Event]:
    """Store `count` project.deleted events with their deliveries, and nothing else."""
    triggers = [service.Trigger("project.deleted", owner, DELETED)] * count
    return service.trigger_events(triggers)


FINISH_SQL = """
WITH finished AS (
    UPDATE webhooks_delivery
       SET status = %(status)s, attempt_count = 1, finished_at = clock_timestamp(),
           next_attempt_at = NULL, response_code = %(code)s,
           delivered_at = CASE WHEN %(code)s = 200 THEN clock_timestamp() END,
           failure_kind = CASE WHEN %(code)s = 200 THEN '' ELSE 'http_status' END,
           error = CASE WHEN %(code)s = 200 THEN '' ELSE 'The receiver answered 500.' END
     WHERE finished_at IS NULL AND (%(webhook)s::uuid IS NULL OR webhook_id = %(webhook)s)
    RETURNING id, created_at, error
)
INSERT INTO webhooks_attempt
    (id, delivery_id, number, started_at, duration_ms, url, request_head, response_code,
     response_body, is_truncated, failure_kind, error)
SELECT overlay(gen_random_uuid()::text PLACING left(id::text, 13) FROM 1 FOR 13)::uuid,
       id, 1, created_at, 7, 'http://127.0.0.1:9/hook', 'webhook-id: x', %(code)s, 'body', false,
       CASE WHEN %(code)s = 200 THEN '' ELSE 'http_status' END, error
  FROM finished
"""


def finish(status: str = "SUCCESS", webhook_id: UUID | None = None) -> None:
    """End everything that waits, as a worker would have after one attempt each."""
    code = 200 if status == "SUCCESS" else 500
    with connection.cursor() as cursor:
        cursor.execute(FINISH_SQL, {"status": status, "code": code, "webhook": webhook_id})


AGE_SQL = """
UPDATE webhooks_attempt SET id = {older}, delivery_id = overlay(delivery_id::text PLACING
    left(%(first)s::text, 13) FROM 1 FOR 13)::uuid, started_at = started_at - %(age)s
 WHERE delivery_id >= %(from)s;
UPDATE webhooks_delivery SET id = {older}, event_id = overlay(event_id::text PLACING
    left(%(first)s::text, 13) FROM 1 FOR 13)::uuid, created_at = created_at - %(age)s,
    finished_at = finished_at - %(age)s, delivered_at = delivered_at - %(age)s
 WHERE id >= %(from)s;
UPDATE webhooks_event SET id = {older}, created_at = created_at - %(age)s WHERE id >= %(from)s
"""


def make_older(age: timedelta, since: datetime | None = None) -> datetime:
    """Move all that exists, or was made since then, into the past, ids included; returns about when it
    now was made."""
    moment = timezone.now() - age
    older = "overlay(id::text PLACING left(%(first)s::text, 13) FROM 1 FOR 13)::uuid"
    parameters: dict[str, Any] = {
        "first": str(first_id_of(moment)),
        "age": age,
        "from": first_id_of(since) if since else UUID(int=0),
    }
    with connection.cursor() as cursor:
        for statement in AGE_SQL.format(older=older).split(";"):
            cursor.execute(statement, parameters)
    return moment


def succeeded(delivery_id: UUID) -> Result:
    """Return what a worker would settle after a first attempt that was answered with 200."""
    return {
        "id": delivery_id.hex,
        "attempt_id": new_id().hex,
        "number": 1,
        "status": "SUCCESS",
        "delay_seconds": None,
        "started_at": time.time(),
        "duration_ms": 1,
        "phases_us": [0, 100, 0, 100, 700, 100],
        "url": "http://127.0.0.1:9/",
        "body_sha256": "0" * 64,
        "request_head": "",
        "code": 200,
        "response_head": "",
        "body": "",
        "is_truncated": False,
        "kind": "",
        "error": "",
        "spends_no_retry": False,
    }
