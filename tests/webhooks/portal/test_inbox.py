"""The test inbox: a URL of ours that shows an owner what his webhooks send, and nothing more."""

import json
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from projects.models import User
from tests.concurrency import in_thread
from tests.webhooks.history import DELETED
from tests.webhooks.portal.conftest import Open
from tests.workers import running_worker, wait_until
from webhooks import service
from webhooks.doors import allowances
from webhooks.models import Delivery, Event, Inbox, InboxRequest, Webhook
from webhooks.repair import expiry
from webhooks.workbench import inbox as inboxes


@pytest.fixture
def opened(owner_client: Client, user: User) -> Inbox:
    assert owner_client.post("/portal/inbox/").status_code == 302
    return Inbox.objects.get(owner=user)


def url_of(opened: Inbox, start: str = "") -> str:
    return f"{start}/portal/in/{opened.token}"


def send(opened: Inbox, body: bytes = b"{}", **headers: str) -> Any:
    return Client().post(url_of(opened), body, "application/json", headers=headers)


@pytest.mark.django_db(transaction=True)
def test_deliveries_arrive_over_http_and_are_verified(
    live_server: LiveServer, user: User, make_webhook: Callable[..., Webhook], settings: Settings
) -> None:
    settings.WEBHOOKS_ALLOWED_NETWORKS = [ip_network("127.0.0.0/8")]
    client = Client()
    client.force_login(user)
    client.post("/portal/inbox/")
    opened = Inbox.objects.get(owner=user)
    url = url_of(opened, live_server.url)
    webhook = make_webhook(url=url, events=["project.deleted"])
    make_webhook(url="http://127.0.0.1:9/else", events=["webhook.test"])
    event = service.trigger_event("project.deleted", user, DELETED)
    events = Event.objects.count()

    with running_worker():
        wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists())
    assert service.test_webhook(webhook).succeeded
    assert service.prove(webhook).verified

    rows = list(opened.requests.order_by("id"))
    assert [row.event_type for row in rows] == [
        "project.deleted", "webhook.test", "webhook.challenge",
    ]  # fmt: skip
    assert {row.signed_for_id for row in rows} == {webhook.pk}
    assert bytes(rows[0].body) == bytes(event.payload)
    # It causes nothing.
    assert Event.objects.count() == events
    page = client.get("/portal/inbox/part/").content.decode()
    assert page.count("genuine") == 3

    check = client.get(f"/portal/check/?captured={rows[0].pk}")
    form = check.context["form"].initial
    assert form["webhook"] == webhook.public_id
    answer = client.post("/portal/check/", form | {"computed": ""}).content.decode()
    assert 'data-test="request_genuine"' in answer
    assert "project.deleted" in client.get(f"/portal/inbox/{rows[0].pk}/").content.decode()


def test_it_ends_after_an_hour_and_is_purged(opened: Inbox, owner_client: Client) -> None:
    assert timedelta(minutes=59) < opened.ends_at - timezone.now() <= timedelta(hours=1)
    assert send(opened).status_code == 200
    row = opened.requests.get()
    Inbox.objects.update(ends_at=timezone.now())

    assert send(opened).status_code == 410
    assert owner_client.get(f"/portal/inbox/{row.pk}/").status_code == 404
    assert owner_client.get(f"/portal/check/?captured={row.pk}").status_code == 404
    assert not expiry.delete_ended_inboxes()
    assert not InboxRequest.objects.exists()


def test_requests_and_bodies_are_bounded(
    opened: Inbox, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(inboxes, "MAX_REQUESTS", 3)
    for number in range(5):
        assert send(opened, b"x" * number, **{"X-Long": "y" * 20_000}).status_code == 200
    assert sorted(row.size for row in opened.requests.all()) == [2, 3, 4]
    assert max(len(row.head) for row in opened.requests.all()) == inboxes.MAX_HEAD_CHARACTERS

    send(opened, b"z" * (inboxes.MAX_BODY_BYTES + 1))
    row = opened.requests.order_by("-id")[0]
    assert (len(row.body), row.is_cut) == (inboxes.MAX_BODY_BYTES, True)
    assert send(opened, b"z" * (settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)).status_code == 400

    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = settings.WEBHOOKS_API_REQUESTS_PER_MINUTE | {
        "inbox": 1
    }
    monkeypatch.setattr(allowances, "counter", allowances.Counter())
    answers = [send(opened).status_code for _ in range(3)]
    assert answers[-1] == 429


def test_what_is_not_signed_with_a_secret_of_its_webhooks_is_not_genuine(
    opened: Inbox, make_webhook: Callable[..., Webhook], owner_client: Client, other_user: User
) -> None:
    make_webhook(url=f"http://127.0.0.1:9{url_of(opened)}")
    for headers in (
        {},
        {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,x"},
    ):
        assert send(opened, b"<script>alert(1)</script>", **headers).content == b"ok"
    assert set(opened.requests.values_list("signed_for_id", flat=True)) == {None}
    page = owner_client.get(f"/portal/inbox/{opened.requests.all()[0].pk}/").content.decode()
    assert "<script>alert" not in page
    assert "No live secret" in page
    stranger = Client()
    stranger.force_login(other_user)
    row = opened.requests.all()[0]
    assert stranger.get(f"/portal/inbox/{row.pk}/").status_code == 404
    assert stranger.get(f"/portal/check/?captured={row.pk}").status_code == 404
    assert opened.token not in stranger.get("/portal/inbox/").content.decode()


def test_a_challenge_is_echoed_and_odd_ones_are_not(opened: Inbox) -> None:
    for body, answer in (
        (b'{"data": {"challenge": "abc"}}', b"abc"),
        (b'{"data": []}', b"ok"),
        (b"[" * 100_000, b"ok"),
        (b"\xff", b"ok"),
        (b'{"data": {"challenge": "\\ud800"}}', b"ok"),
        (b'{"data": {"challenge": %s}}' % (b"9" * 5000), b"ok"),
    ):
        assert send(opened, body, **{"X-Webhook-Event": "webhook.challenge"}).content == answer
    body = json.dumps({"data": {"challenge": "abc"}}).encode()
    assert send(opened, body).content == b"ok"


def test_only_whoever_sees_all_webhooks_and_may_manage_opens_one(
    user: User, make_webhook: Callable[..., Webhook], open_session: Open
) -> None:
    webhook = make_webhook()
    for path, seen, opens in (
        (open_session(user, "view"), 200, 403),
        (open_session(user, "view", "manage"), 200, 302),
        (open_session(user, "view", "manage", webhook=webhook), 403, 403),
    ):
        assert Client().get(f"{path}inbox/").status_code == seen
        assert Client().post(f"{path}inbox/").status_code == opens


def test_a_new_inbox_ends_the_earlier_one(opened: Inbox, owner_client: Client, user: User) -> None:
    send(opened)
    owner_client.post("/portal/inbox/")
    assert send(opened).status_code == 410
    assert Inbox.objects.get(owner=user).requests.count() == 0
    assert Client().get(url_of(opened)).status_code == 405


@pytest.mark.django_db
@pytest.mark.parametrize("token", ["%00", "%ED%A0%80", "x", "x" * 43])
def test_what_is_no_inbox_has_ended(token: str) -> None:
    assert Client().post(f"/portal/in/{token}").status_code == 410


@pytest.mark.django_db(transaction=True)
def test_an_inbox_that_is_deleted_meanwhile_has_ended(
    opened: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = inboxes.keep

    def keep_when_deleted(*given: Any) -> None:
        in_thread(lambda: Inbox.objects.all().delete()).join()
        keep(*given)

    monkeypatch.setattr(inboxes, "keep", keep_when_deleted)

    assert send(opened).status_code == 410


def test_inbox_of_a_deactivated_owner_takes_nothing(opened: Inbox, user: User) -> None:
    assert send(opened).status_code == 200
    User.objects.filter(pk=user.pk).update(is_active=False)

    assert send(opened).status_code == 410
    assert opened.requests.count() == 1
