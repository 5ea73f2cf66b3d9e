"""The public API's webhooks and deliveries: what it returns and what it refuses."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from projects.models import User
from tests.webhooks.history import DELETED
from webhooks import service
from webhooks.models import SigningSecret, Webhook


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
    from webhooks.encryption import decrypt
    from webhooks.errors import EncryptionKeyError

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
