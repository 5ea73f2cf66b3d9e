"""Invariant 12 through the dispatcher and the test send: what changes while a name is looked up."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import responses
from django.db import connection

from projects.models import Project, User
from tests.webhooks.sending import policy
from webhooks import service
from webhooks.dispatch import engine
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.engine import run_until_idle
from webhooks.errors import WebhookNotSendingError
from webhooks.models import Attempt, Delivery, Pause, Webhook
from webhooks.registry.switch import disable
from webhooks.wire.many import MultiSender
from webhooks.wire.names import Answer
from webhooks.wire.one import CurlAdapter
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    webhook = make_webhook(url=f"http://hooks.example:{receiver.port}/", events=["project.created"])
    receiver.secrets = [webhook.secret]
    return webhook


@pytest.fixture
def during_lookup(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Make the dispatcher's look-up change something, and last until endpoints were read anew."""
    loaded = threading.Event()
    load = Endpoints.load

    def noting(self: Endpoints, webhook_ids: Any) -> None:
        load(self, webhook_ids)
        loaded.set()

    monkeypatch.setattr(Endpoints, "load", noting)

    def install(change: Callable[[], Any]) -> None:
        def lookup(host: str) -> Answer:
            change()
            connection.close()
            # Twice: the first may have begun to read before the change.
            for _ in range(2):
                loaded.clear()
                loaded.wait(5)
            return ("127.0.0.1",)

        monkeypatch.setattr(
            engine, "_new_sender", lambda: MultiSender(policy("127.0.0.0/8"), lookup=lookup)
        )

    return install


@pytest.mark.parametrize("change", ["disabled", "deleted", "paused"])
def test_delivery_whose_webhook_goes_off_during_the_look_up_is_given_back(
    user: User,
    webhook: Webhook,
    receiver: HttpReceiver,
    during_lookup: Callable[[Callable[[], Any]], None],
    change: str,
) -> None:
    during_lookup(
        {
            "disabled": lambda: disable(webhook),
            "deleted": lambda: service.delete_webhook(webhook),
            "paused": lambda: Pause.objects.create(),
        }[change]
    )
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    delivery = Delivery.objects.get()
    assert (receiver.requests, Attempt.objects.count()) == ([], 0)
    assert (delivery.status, delivery.attempt_count) == ("PENDING", 0)
    assert delivery.claimed_by is None


def test_delivery_is_signed_with_the_secret_that_is_valid_after_the_look_up(
    user: User,
    webhook: Webhook,
    receiver: HttpReceiver,
    during_lookup: Callable[[Callable[[], Any]], None],
) -> None:
    def rotate() -> None:
        if len(receiver.secrets) == 1:
            service.rotate_secret(webhook, overlap=timedelta(0))
            receiver.secrets = [webhook.secret]

    during_lookup(rotate)
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    (received,) = receiver.requests
    assert (received.standard_ok, received.hex_ok) == (True, True)
    assert len(received.headers["webhook-signature"].split()) == 1


def test_test_send_is_withdrawn_with_its_webhook(
    webhook: Webhook, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(host: str) -> Answer:
        disable(webhook)
        connection.close()
        return ("127.0.0.1",)

    monkeypatch.setattr(Endpoints, "is_stale", lambda *_: True)
    monkeypatch.setattr(CurlAdapter.__init__, "__defaults__", (lookup,))

    with pytest.raises(WebhookNotSendingError):
        service.test_webhook(webhook)

    assert receiver.requests == []


def test_test_send_reports_what_a_mocked_receiver_answers(webhook: Webhook) -> None:
    with responses.RequestsMock(target="webhooks.wire.one.CurlAdapter.send") as mock:
        mock.post(webhook.url, status=418, body="I'm a teapot")
        tryout = service.test_webhook(webhook)

    assert (tryout.succeeded, tryout.response_code) == (False, 418)
    assert tryout.response_excerpt == "I'm a teapot"
