"""Delete what ends by age alone: stored API responses, audit entries, test inboxes, hosts
that get nothing."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

from webhooks.ids import first_id_of
from webhooks.repair.retention import FIRST_BATCH, leave_to_the_workers

ANSWERS_KEPT_FOR = timedelta(hours=24)
"""How long a POST can be repeated with its Idempotency-Key (webhooks/api/idempotency.py)."""

DELETE_RESPONSES_SQL = """
DELETE FROM webhooks_idempotentanswer
 WHERE id IN (
    SELECT id FROM webhooks_idempotentanswer
     WHERE created_at <= statement_timestamp() - make_interval(secs => %(kept)s)
     ORDER BY created_at LIMIT %(batch)s
       FOR UPDATE SKIP LOCKED)
"""

DELETE_AUDIT_ENTRIES_SQL = """
DELETE FROM webhooks_auditentry
 WHERE id IN (
    SELECT id FROM webhooks_auditentry
     WHERE id < %(last)s
     ORDER BY id LIMIT %(batch)s
       FOR UPDATE SKIP LOCKED)
"""


DELETE_HOSTS_SQL = """
DELETE FROM webhooks_unverifiedhost
 WHERE host IN (
    SELECT host FROM webhooks_unverifiedhost
     WHERE ready_at <= statement_timestamp() - make_interval(secs => %(kept)s)
     ORDER BY ready_at LIMIT %(batch)s
       FOR UPDATE SKIP LOCKED)
"""
HOSTS_KEPT_FOR = timedelta(hours=1)


def delete_quiet_hosts() -> bool:
    """Delete a batch of hosts whose allowance is long full again; return whether there may be more."""
    return _delete(DELETE_HOSTS_SQL, {"kept": HOSTS_KEPT_FOR.total_seconds()})


DELETE_INBOXES_SQL = """
DELETE FROM webhooks_inboxrequest
 WHERE id IN (
    SELECT r.id FROM webhooks_inboxrequest r JOIN webhooks_inbox i ON i.id = r.inbox_id
     WHERE i.ends_at <= statement_timestamp()
     LIMIT %(batch)s
       FOR UPDATE OF r SKIP LOCKED)
"""


def delete_ended_inboxes() -> bool:
    """Delete a batch of requests in test inboxes that have ended; return whether there may be more."""
    return _delete(DELETE_INBOXES_SQL, {})


def delete_expired_responses() -> bool:
    """Delete a batch of stored responses older than 24 h; return whether there may be more."""
    return _delete(DELETE_RESPONSES_SQL, {"kept": ANSWERS_KEPT_FOR.total_seconds()})


def delete_expired_audit_entries() -> bool:
    """Delete a batch of audit entries older than WEBHOOKS_AUDIT_RETENTION_DAYS.

    Returns whether there may be more.
    """
    kept = timedelta(days=settings.WEBHOOKS_AUDIT_RETENTION_DAYS)
    return _delete(DELETE_AUDIT_ENTRIES_SQL, {"last": first_id_of(timezone.now() - kept)})


def _delete(sql: str, parameters: Mapping[str, Any]) -> bool:
    started_at = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute(sql, {**parameters, "batch": FIRST_BATCH})
        has_more = bool(cursor.rowcount == FIRST_BATCH)
    if has_more:
        leave_to_the_workers(time.monotonic() - started_at)
    return has_more
