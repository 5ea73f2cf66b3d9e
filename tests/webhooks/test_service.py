"""The public API's webhooks and deliveries: what it returns and what it refuses."""

import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from projects.models import User
from tests.webhooks.history import DELETED
from webhooks import service
from webhooks.models import Delivery, SigningSecret, Webhook
from webhooks.models.owner_keys import NO_OWNER
from webhooks.workbench.receiver import HttpReceiver


def test_secret_is_readable_on_the_created_instance_only(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook()

    assert webhook.secret.startswith("whsec_")
    assert SigningSecret.objects.get(webhook=webhook).value == webhook.secret
    with pytest.raises(AttributeError, match="shown once"):
        _ = Webhook.objects.get(id=webhook.id).secret


def test_secret_and_headers_are_encrypted_and_bound_to_their_row(
    make_webhook: Callable[..., Webhook],
) -> None:
    from webhooks.errors import EncryptionKeyError
    from webhooks.models.encryption import decrypt

    webhook = make_webhook(headers={"Authorization": "Bearer canary"})

    stored = Webhook.objects.get(id=webhook.id)
    assert stored.headers == {"Authorization": "Bearer canary"}
    assert b"canary" not in bytes(stored.headers_encrypted or b"")
    with pytest.raises(EncryptionKeyError):
        decrypt(bytes(stored.headers_encrypted or b""), uuid.uuid4())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"url": "https://exa mple.com/"}, "url"),
        ({"url": "http://127.0.0.1:80\\@public.example/"}, "url"),
        ({"url": "https://example.com:99999/"}, "url"),
        ({"url": "https://example.com/" + "x" * 2048}, "url"),
        ({"events": []}, "events"),
        ({"events": ["project.exploded"]}, "events"),
        ({"events": ["nothing.*"]}, "events"),
        ({"max_retries": 21}, "max_retries"),
        ({"max_retries": -1}, "max_retries"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 31}, "timeout_seconds"),
        ({"retry_delay_seconds": 0}, "retry_delay_seconds"),
        ({"retry_schedule": [1] * 21}, "retry_schedule"),
        ({"retry_schedule": [60, 0]}, "retry_schedule"),
        ({"retry_schedule": [-5]}, "retry_schedule"),
        ({"retry_schedule": [60], "max_retries": 3}, "retry_schedule"),
        ({"rate_limit": 0}, "rate_limit"),
        ({"rate_limit": -1}, "rate_limit"),
        ({"name": ""}, "name"),
    ],
)
def test_bad_webhook_is_refused_and_nothing_stored(
    make_webhook: Callable[..., Webhook], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        make_webhook(**fields)

    assert field in refusal.value.message_dict
    assert not Webhook.objects.exists()


def test_webhook_without_owner_is_refused(make_webhook: Callable[..., Webhook]) -> None:
    with pytest.raises(ValidationError, match="has an owner"):
        make_webhook(owner=None)


def test_deliveries_are_newest_first_and_only_the_owners(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook()
    events = [service.trigger_event("project.deleted", user, DELETED) for _ in range(3)]

    deliveries = list(service.get_deliveries(webhook, user))

    assert [delivery.event for delivery in deliveries] == events[::-1]
    assert not service.get_deliveries(webhook, other_user)
    assert service.get_deliveries(webhook, user, status="PENDING").count() == 3
    assert not service.get_deliveries(webhook, user, status="SUCCESS")


def test_test_request_is_never_signed_for_the_future(
    make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make_webhook(url=receiver.url)
    while time.time() % 1 < 0.5:  # where rounding goes up
        pass

    tried = service.test_webhook(webhook)

    assert tried.succeeded
    assert int(tried.signature_headers["webhook-timestamp"]) <= receiver.requests[0].received_at


STATE = (
    "active", "disabled_reason", "disabled_at", "failing_since", "held_until", "notice_due_at",
    "breaker_state", "breaker_failures", "breaker_probes", "breaker_probe_at",
)  # fmt: skip


def state_of(webhook: Webhook) -> dict[str, Any]:
    return dict(Webhook.objects.values(*STATE).get(pk=webhook.pk))


def make_failing(webhook: Webhook, now: datetime) -> None:
    """It was disabled automatically, with an old and a recent delivery waiting."""
    Webhook.objects.filter(pk=webhook.pk).update(
        active=False, disabled_reason="No delivery succeeded.", disabled_at=now,
        failing_since=now, held_until=now + timedelta(days=1), notice_due_at=now,
        breaker_state="open", breaker_failures=7, breaker_probes=3,
        breaker_probe_at=now + timedelta(hours=1),
    )  # fmt: skip
    for age in (timedelta(days=5), timedelta(hours=1)):
        event = service.trigger_event("project.deleted", webhook.owner, DELETED)
        Delivery.objects.filter(event=event).delete()
        Delivery.objects.create(
            event=event, webhook=webhook, owner_id=event.owner_id or NO_OWNER, event_type=event.type,
            created_at=now - age,
        )  # fmt: skip


@pytest.mark.parametrize("is_stale", [False, True])
def test_update_to_active_does_all_that_enable_does(
    make_webhook: Callable[..., Webhook], is_stale: bool
) -> None:
    enabled, updated = make_webhook(), make_webhook()
    now = timezone.now()
    for webhook in (enabled, updated):
        make_failing(webhook, now)
        if not is_stale:
            webhook.refresh_from_db()

    service.enable(enabled)
    service.update_webhook(updated, active=True, name="Both")

    assert state_of(updated) == state_of(enabled)
    assert updated.name == Webhook.objects.get(pk=updated.pk).name == "Both"
    assert _statuses(updated) == _statuses(enabled) == ["CANCELLED", "PENDING"]


def _statuses(webhook: Webhook) -> list[str]:
    found = Delivery.objects.filter(webhook=webhook).order_by("created_at")
    return list(found.values_list("status", flat=True))


def test_update_to_inactive_does_all_that_disable_does(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook()

    service.update_webhook(webhook, active=False)

    stored = Webhook.objects.get(pk=webhook.pk)
    assert (stored.active, stored.disabled_reason) == (False, "")
    assert stored.disabled_at is not None
    assert make_webhook(active=False).disabled_at is not None


def test_update_that_switches_nothing_leaves_all_as_it_is(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook()
    make_failing(webhook, timezone.now())
    before = state_of(webhook)

    service.update_webhook(webhook, active=False)

    assert state_of(webhook) == before
    assert _statuses(webhook) == ["PENDING", "PENDING"]


SAME = "http://127.0.0.1:9/hook"


@pytest.mark.parametrize(
    ("other", "is_warned"),
    [
        ({}, True),
        ({"url": "HTTP://127.0.0.1:09/hook"}, True),
        ({"active": False}, True),
        ({"events": ["project.deleted"]}, True),
        ({"events": ["project.*", "session.ended"]}, True),
        ({"url": SAME + "/"}, False),
        ({"url": SAME + "?a=b"}, False),
        ({"events": ["session.*"]}, False),
    ],
)
def test_second_webhook_with_the_same_url_is_warned_of(
    make_webhook: Callable[..., Webhook],
    caplog: pytest.LogCaptureFixture,
    other: dict[str, Any],
    is_warned: bool,
) -> None:
    first = make_webhook(**({"name": "First", "url": SAME} | other))
    caplog.clear()

    second = make_webhook(url=SAME, events=["project.*"])

    found = service.warnings_of(second)
    assert len(found) == is_warned
    assert [
        record.getMessage()
        for record in caplog.records
        if record.name == "webhooks.registry.warnings"
    ] == [f"Webhook {second.public_id}: {warning}" for warning in found]
    if is_warned:
        assert f"First ({first.public_id})" in found[0]
        assert len(service.warnings_of(first)) == 1


def test_webhooks_of_others_and_deleted_ones_are_not_warned_of(
    make_webhook: Callable[..., Webhook], other_user: User
) -> None:
    make_webhook(url=SAME, owner=other_user)
    make_webhook(url=SAME, owner=None, is_platform=True)
    service.delete_webhook(make_webhook(url=SAME))

    assert service.warnings_of(make_webhook(url=SAME)) == []


def test_url_stored_by_older_rules_is_compared_as_it_is_sent(
    make_webhook: Callable[..., Webhook],
) -> None:
    Webhook.objects.filter(pk=make_webhook().pk).update(url="http://127.0.0.1:9")

    assert len(service.warnings_of(make_webhook(url="http://127.0.0.1:9/"))) == 1


def test_update_to_the_same_url_is_warned_of(
    make_webhook: Callable[..., Webhook], caplog: pytest.LogCaptureFixture
) -> None:
    make_webhook(url=SAME)
    webhook = make_webhook(url=SAME + "2")

    service.update_webhook(webhook, name="New")
    assert caplog.records == []
    service.update_webhook(webhook, url=SAME)
    assert "have the same URL" in caplog.text
