"""Pages that do much work for a small request: checking a signature, showing a payload."""

import time
from collections.abc import Callable

import pytest
from django.test import Client
from django.utils import timezone

from projects.models import User
from tests.webhooks.history import DELETED
from webhooks import service
from webhooks.models import Attempt, Delivery, Event, Webhook
from webhooks.workbench import attempts, diagnosis
from webhooks.workbench.attempts import PER_PAGE, show_payload

pytestmark = pytest.mark.django_db

MOST_SECONDS = 0.6
"""Of processor time, of a page with its templates."""
MOST_BYTES = 16 * 1024 * 1024
OTHER_WEBHOOKS = 20
BODIES = {
    f"{depth} deep, {size:,} bytes": b"[" * depth + b"0," * (size // 2) + b"0" + b"]" * depth
    for depth in (1, 31, 600, 900, 5000)
    for size in (2_000, 30_000, 240_000)
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_checking_a_signature_takes_little_time(
    user: User, make_webhook: Callable[..., Webhook], body: bytes
) -> None:
    webhook = make_webhook()
    for number in range(OTHER_WEBHOOKS):
        make_webhook(name=str(number))
    client = Client()
    client.force_login(user)
    headers = f"webhook-id: evt_1\nwebhook-timestamp: {int(time.time())}\nwebhook-signature: v1,x"
    form = {
        "webhook": webhook.public_id,
        "headers": headers,
        "body": body.decode(),
        "computed": "x",
    }
    client.get("/portal/check/")  # compiles the templates

    since = time.process_time()
    response = client.post("/portal/check/", form)

    assert response.status_code == 200
    assert time.process_time() - since < MOST_SECONDS
    assert len(response.content) < MOST_BYTES


@pytest.mark.parametrize("letter", ["'", "a", "\\u0001", "<"])
def test_pages_of_many_attempts_are_short(
    user: User, make_webhook: Callable[..., Webhook], letter: str
) -> None:
    webhook = make_webhook(events=["project.deleted"])
    service.trigger_event("project.deleted", user, DELETED)
    payload = b'{"a":"%s"}' % (letter * (256 * 1024 // len(letter))).encode()
    Event.objects.update(payload=payload)
    delivery = Delivery.objects.get()
    Attempt.objects.bulk_create(
        Attempt(
            delivery=delivery,
            number=number,
            started_at=timezone.now(),
            duration_ms=1,
            url=webhook.url,
        )
        for number in range(1, PER_PAGE + 1)
    )
    client = Client()
    client.force_login(user)

    page = client.get(f"/portal/delivery/{delivery.public_id}/")

    assert page.status_code == 200
    assert attempts.BODY_FILE in page.content.decode()
    assert len(page.content) < MOST_BYTES


@pytest.mark.parametrize("depth", [1, 40, 900, 5000])
def test_deep_payload_is_shown_as_it_came(depth: int) -> None:
    body = (b"[" * depth + b"0," * 20_000 + b"0" + b"]" * depth)[: attempts.SHOWN_BYTES]

    assert len(show_payload(body).pretty) <= attempts.MAX_PRETTY


def test_reserialised_bodies_are_bounded() -> None:
    longest = b"[" * 31 + b"0," * 15_000 + b"0" + b"]" * 31

    assert sum(map(len, diagnosis._serialised(longest))) < 16 * 1024 * 1024
