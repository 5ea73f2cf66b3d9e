"""`/webhooks`: create, change, try, rotate, switch off and on."""

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from webhooks import service
from webhooks.models import AuditEntry, Delivery, Event, IdempotentAnswer, SigningSecret, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

CANARY = "canary-3f9a1c"
NEW = {"name": "Orders", "url": "http://127.0.0.1:9/hook", "events": ["project.*"]}


def path_of(webhook: Webhook, action: str = "") -> str:
    return f"/api/v1/webhooks/{webhook.public_id}{action}"


def test_create_shows_the_secret_and_all_settings(client: APIClient, user: User) -> None:
    wish = NEW | {
        "description": "Tells the shop",
        "headers": {"X-Team": CANARY},
        "maxRetries": 3,
        "retryDelay": 5,
        "timeout": 7,
        "rateLimit": 2.5,
        "ordered": True,
    }

    response = client.post("/api/v1/webhooks", wish)

    assert response.status_code == 201
    shown = response.json()
    webhook = Webhook.objects.get()
    assert shown["id"] == webhook.public_id
    assert shown["secret"] == SigningSecret.objects.get().value
    assert shown["headerNames"] == ["X-Team"]
    assert {name: shown[name] for name in wish if name != "headers"} == {
        name: value for name, value in wish.items() if name != "headers"
    }
    assert shown["createdAt"] <= shown["updatedAt"]
    assert webhook.owner_id == user.id
    assert webhook.headers == {"X-Team": CANARY}
    assert (webhook.retry_delay_seconds, webhook.timeout_seconds) == (5, 7)


def test_secret_and_header_values_are_never_shown_again(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(headers={"X-Team": CANARY})

    bodies = [
        client.get(path).content.decode()
        for path in ("/api/v1/webhooks", path_of(webhook), path_of(webhook, "/stats"))
    ]
    bodies.append(client.patch(path_of(webhook), {"name": "Shop"}).content.decode())
    bodies.append(client.post(path_of(webhook, "/disable")).content.decode())

    for body in bodies:
        assert webhook.secret not in body
        assert CANARY not in body


def test_change_touches_only_what_is_named(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(timeout_seconds=7, headers={"X-Team": CANARY})

    response = client.patch(path_of(webhook), {"name": "Shop", "retryDelay": 9})

    assert response.status_code == 200
    webhook = Webhook.objects.get()
    assert (webhook.name, webhook.retry_delay_seconds) == ("Shop", 9)
    assert (webhook.timeout_seconds, webhook.headers) == (7, {"X-Team": CANARY})


def test_change_with_a_wrong_value_changes_nothing(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook()

    response = client.patch(path_of(webhook), {"name": "Shop", "url": "ftp://x/"})

    assert response.status_code == 400
    assert [one["pointer"] for one in response.json()["errors"]] == ["/url"]
    assert Webhook.objects.get().name == "Orders"


GUARDED = [
    "id", "owner", "ownerId", "userId", "active", "isPlatform", "is_platform",
    "createdAt", "updatedAt", "disabledAt", "disabledReason", "failingSince", "breakerState",
    "breakerFailures", "verified", "deletedAt", "revision", "headersEncrypted", "headers_encrypted",
    "payloadOptions", "max_retries", "__class__", "constructor", "", "name ",
]  # fmt: skip


@pytest.mark.parametrize("field", GUARDED)
def test_what_is_not_to_be_set_is_refused(
    client: APIClient, make_webhook: Callable[..., Webhook], field: str
) -> None:
    webhook = make_webhook()

    created = client.post("/api/v1/webhooks", NEW | {field: 1})
    changed = client.patch(path_of(webhook), {"name": "Shop", field: 1})

    for response in (created, changed):
        assert response.status_code == 400
        assert [one["pointer"] for one in response.json()["errors"]] == [f"/{field}"]
        assert response.json()["errors"][0]["code"] in ("unknown-field", "read-only")
    assert Webhook.objects.get().name == "Orders"


def test_hundred_are_the_limit(
    client: APIClient, make_webhook: Callable[..., Webhook], settings: Any
) -> None:
    settings.WEBHOOKS_MAX_PER_OWNER = 2
    first, _ = make_webhook(), make_webhook()

    refused = client.post("/api/v1/webhooks", NEW)

    assert refused.status_code == 400
    assert "delete one" in refused.json()["detail"]
    client.delete(path_of(first))
    assert client.post("/api/v1/webhooks", NEW).status_code == 201


def test_deleted_one_is_gone_and_keeps_its_name_for_nobody(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook()

    assert client.delete(path_of(webhook)).status_code == 204
    assert client.get(path_of(webhook)).status_code == 404
    assert client.get("/api/v1/webhooks").json()["results"] == []
    assert Webhook.objects.get().deleted_at is not None


def test_filter_by_active(client: APIClient, make_webhook: Callable[..., Webhook]) -> None:
    on, off = make_webhook(), make_webhook()
    service.disable(off)

    def listed(value: str) -> list[str]:
        page = client.get(f"/api/v1/webhooks?active={value}").json()
        return [one["id"] for one in page["results"]]

    assert listed("true") == [on.public_id]
    assert listed("false") == [off.public_id]
    assert client.get("/api/v1/webhooks?active=maybe").status_code == 400


def add_delivery(webhook: Webhook, owner_id: Any) -> None:
    Delivery.objects.create(
        event=Event.objects.create(type="webhook.test", owner_id=owner_id, payload=b"{}"),
        webhook=webhook,
        owner_id=owner_id,
        event_type="webhook.test",
    )


def test_disable_and_enable(
    client: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["webhook.test"])
    disabled = client.post(path_of(webhook, "/disable"), {"reason": "Moving house"}).json()
    assert (disabled["active"], disabled["disabledReason"]) == (False, "Moving house")
    webhook.refresh_from_db()
    add_delivery(webhook, user.id)

    enabled = client.post(path_of(webhook, "/enable"), {"send": "all"})

    assert enabled.json() == {"waiting": 1, "missed": 0, "redeliveryId": None}
    assert Webhook.objects.get().active
    assert client.post(path_of(webhook, "/enable"), {"send": "some"}).status_code == 400


def test_switching_again_changes_nothing(
    client: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["webhook.test"])
    add_delivery(webhook, user.id)

    again = client.post(path_of(webhook, "/enable"), {"send": "none"})

    assert (again.status_code, again.json()["waiting"]) == (200, 1)
    assert Delivery.objects.get().status == "PENDING"
    for reason in ("first", "second"):
        disabled = client.post(path_of(webhook, "/disable"), {"reason": reason})
        assert (disabled.status_code, disabled.json()["disabledReason"]) == (200, "first")
    assert [entry.action for entry in AuditEntry.objects.all()] == ["webhook.disable"]


def test_rotate_shows_a_new_secret_and_keeps_the_old_one_for_a_while(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook()

    rotated = client.post(path_of(webhook, "/rotate-secret"), {"overlapHours": 1}).json()

    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != webhook.secret
    live = list(webhook.secrets.live(timezone.now()))
    assert [one.value for one in live] == [rotated["secret"], webhook.secret]
    assert live[1].expires_at is not None
    assert abs(live[1].expires_at - timezone.now() - timedelta(hours=1)) < timedelta(minutes=1)
    assert client.post(path_of(webhook, "/revoke-secrets")).json() == {"revoked": 1}
    assert webhook.secrets.count() == 1


def test_eleven_secrets_are_too_many(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook()
    statuses = [client.post(path_of(webhook, "/rotate-secret")).status_code for _ in range(10)]

    assert statuses == [200] * 9 + [409]


# The test request.


def test_one_real_request_is_sent_and_told(
    client: APIClient, receiver: HttpReceiver, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(url=receiver.url, headers={"X-Team": CANARY})
    receiver.secrets = [webhook.secret]
    receiver.script(Behaviour(status=202, body=b"thanks \xff\x00"))

    response = client.post(path_of(webhook, "/test"))

    assert response.status_code == 200
    tryout = response.json()
    (received,) = receiver.requests
    assert received.standard_ok
    assert received.hex_ok
    assert received.headers["x-team"] == CANARY
    assert received.headers["x-webhook-test"] == "true"
    assert json.loads(received.body)["type"] == "webhook.test"
    assert json.loads(received.body)["id"] == tryout["eventId"] == received.event_id
    assert (tryout["succeeded"], tryout["responseCode"], tryout["error"]) == (True, 202, "")
    assert tryout["responseExcerpt"] == "thanks ��"
    assert 0 <= tryout["durationMs"] < 5000
    assert tryout["signatureHeaders"]["webhook-signature"] == received.headers["webhook-signature"]
    assert CANARY not in response.content.decode()
    assert not Event.objects.filter(type="webhook.test").exists()
    assert not Delivery.objects.exists()


def test_example_of_any_type_can_be_sent(
    client: APIClient, receiver: HttpReceiver, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(url=receiver.url)

    client.post(path_of(webhook, "/test"), {"eventType": "session.ended"})
    unknown = client.post(path_of(webhook, "/test"), {"eventType": "session.exploded"})

    (received,) = receiver.requests
    assert json.loads(received.body)["data"]["duration"] == 3600
    assert received.headers["x-webhook-event"] == "session.ended"
    assert unknown.status_code == 400


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (Behaviour(status=500), "The receiver answered 500."),
        (Behaviour(status=302, headers=(("Location", "http://10.0.0.1/"),)), "not followed"),
        (Behaviour(status=410), "gone for good"),
        (Behaviour(mode="close"), "No complete HTTP answer"),
        (Behaviour(mode="garbage"), "No complete HTTP answer"),
        (Behaviour(mode="hang"), "No complete HTTP answer"),
    ],
)
def test_what_the_receiver_does_is_told_and_has_no_consequence(
    client: APIClient,
    receiver: HttpReceiver,
    make_webhook: Callable[..., Webhook],
    behaviour: Behaviour,
    error: str,
) -> None:
    webhook = make_webhook(url=receiver.url, timeout_seconds=1)
    receiver.script(behaviour)

    tryout = client.post(path_of(webhook, "/test")).json()

    assert tryout["succeeded"] is False
    assert error in tryout["error"]
    webhook.refresh_from_db()
    assert webhook.active
    assert webhook.failing_since is None


def test_refused_connection_is_called_that_and_a_forbidden_address_says_nothing(
    client: APIClient, make_webhook: Callable[..., Webhook], settings: Any
) -> None:
    closed = client.post(path_of(make_webhook(), "/test")).json()
    settings.WEBHOOKS_ALLOWED_NETWORKS = []
    forbidden_webhook = Webhook.objects.get()
    forbidden = client.post(path_of(forbidden_webhook, "/test")).json()

    assert closed["error"].startswith("The receiver refused the connection")
    assert closed["failureKind"] == "connect"
    assert "does not lead to a public address" in forbidden["error"]
    for tryout in (closed, forbidden):
        assert "127.0.0.1" not in json.dumps(tryout)


def test_nothing_is_sent_where_nothing_may_be_sent(
    client: APIClient, receiver: HttpReceiver, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(url=receiver.url)
    service.pause_sending()
    paused = client.post(path_of(webhook, "/test"))
    service.resume_sending()
    service.disable(webhook)
    disabled = client.post(path_of(webhook, "/test"))

    assert (paused.status_code, disabled.status_code) == (409, 409)
    assert "enable it first" in disabled.json()["detail"]
    assert receiver.requests == []


# Figures.


def test_stats(client: APIClient, user: User, make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook(events=["project.deleted"])
    for status in ("SUCCESS", "SUCCESS", "FAILED", "PENDING"):
        event = Event.objects.create(type="project.deleted", owner_id=user.id, payload=b"{}")
        delivery = Delivery.objects.create(
            event=event, webhook=webhook, owner_id=user.id, event_type=event.type, status=status
        )
        if status == "SUCCESS":
            now = timezone.now()
            Delivery.objects.filter(id=delivery.id).update(delivered_at=now, finished_at=now)
        delivery.attempts.create(
            number=1, started_at=timezone.now(), duration_ms=20, url="x", request_head=""
        )

    stats = client.get(path_of(webhook, "/stats?bucket=day")).json()

    assert stats["deliveries"] == 4
    assert stats["byStatus"]["SUCCESS"] == 2
    assert stats["successRate"] == pytest.approx(2 / 3)
    assert stats["durationP95Ms"] == 20
    assert stats["lastSuccessAt"] is not None
    assert len(stats["series"]) == 8
    assert stats["series"][-1] | {"startsAt": ""} == {
        "startsAt": "", "deliveries": 4, "succeeded": 2, "failed": 1, "cancelled": 0, "open": 1,
    }  # fmt: skip


def test_range_of_any_time_zone_is_counted(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    query = "bucket=day&since=2026-11-02T00:00:00%2B23:59&until=2026-11-03T00:00:00-23:59"

    stats = client.get(path_of(make_webhook(), f"/stats?{query}")).json()

    assert (stats["since"], stats["until"]) == ("2026-11-01T00:01:00Z", "2026-11-03T23:59:00Z")


@pytest.mark.parametrize(
    "query",
    [
        "bucket=minute",
        "since=yesterday",
        "since=0001-01-01T00:00:00Z",
        "since=9999-12-31T23:59:59Z",
        "until=0001-01-01T00:00:00Z",
        "until=0001-01-01T00:00:00%2B14:00",
        "until=9999-12-31T23:59:59-14:00",
        "since=2026-11-02T00:00:00Z&until=2026-11-01T00:00:00Z",
        "since=2020-01-01T00:00:00Z&bucket=hour",
        "since=2020-01-01T00:00:00Z&bucket=day",
        "limit=5",
    ],
)
def test_impossible_ranges_are_refused(
    client: APIClient, make_webhook: Callable[..., Webhook], query: str
) -> None:
    assert client.get(path_of(make_webhook(), f"/stats?{query}")).status_code == 400


def test_platform_webhooks_are_not_in_reach(staff: User, make_client: MakeClient) -> None:
    webhook = service.create_webhook(
        None, is_platform=True, name="All", url="http://127.0.0.1:9/", events=["*"]
    )
    client = make_client(staff)

    assert client.get(path_of(webhook)).status_code == 404
    assert client.get("/api/v1/webhooks").json()["results"] == []


# Values that no key decrypts any more.


def make_unreadable(*webhooks: Webhook) -> None:
    """As after a lost key, or a dump that was restored without its keys."""
    ids = [webhook.pk for webhook in webhooks]
    Webhook.objects.filter(pk__in=ids).update(headers_encrypted=b"\x01lost" + bytes(40))
    SigningSecret.objects.filter(webhook__in=ids).update(value_encrypted=b"\x01lost" + bytes(40))


def test_one_unreadable_webhook_stops_no_answer(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    fine, lost = make_webhook(headers={"X-A": "1"}), make_webhook(headers={"X-B": "2"})
    make_unreadable(lost)

    listed = client.get("/api/v1/webhooks")
    answers = [
        client.get(path_of(lost)),
        client.patch(path_of(lost), {"name": "New"}),
        client.post(path_of(lost, "/disable")),
        client.post(path_of(lost, "/enable")),
        client.get(path_of(lost, "/stats")),
        client.get(path_of(lost, "/deliveries")),
        client.post(path_of(lost, "/revoke-secrets")),
    ]

    names = {one["id"]: one["headerNames"] for one in listed.json()["results"]}
    assert names == {fine.public_id: ["X-A"], lost.public_id: None}
    assert {answer.status_code for answer in answers} == {200}
    assert [answers[0].json()["headerNames"], answers[1].json()["headerNames"]] == [None, None]
    tried = client.post(path_of(lost, "/test"))
    assert tried.status_code == 409
    assert "undecryptable" in tried.json()["detail"]


def test_an_unreadable_webhook_has_a_way_out(
    client: APIClient, receiver: HttpReceiver, make_webhook: Callable[..., Webhook]
) -> None:
    lost = make_webhook(url=receiver.url, headers={"X-B": "2"}, ed25519=True)
    make_unreadable(lost)

    patched = client.patch(path_of(lost), {"headers": {"X-C": "3"}})
    service.rotate_secret(lost, scheme="v1a")
    rotated = client.post(path_of(lost, "/rotate-secret"))

    assert patched.json()["headerNames"] == ["X-C"]
    receiver.secrets = [rotated.json()["secret"]]
    assert client.post(path_of(lost, "/test")).json()["succeeded"]
    assert receiver.requests[0].standard_ok
    assert receiver.requests[0].headers["x-c"] == "3"
    assert client.delete(path_of(lost)).status_code == 204


def test_answer_that_cannot_be_read_any_more_is_a_conflict(client: APIClient) -> None:
    body = {"name": "Orders", "url": "http://127.0.0.1:9/", "events": ["*"]}
    key = {"Idempotency-Key": "k"}
    client.post("/api/v1/webhooks", body, headers=key)
    IdempotentAnswer.objects.update(answer_encrypted=b"\x01lost" + bytes(40))

    again = client.post("/api/v1/webhooks", body, headers=key)

    assert again.status_code == 409
    assert "cannot be decrypted" in again.json()["detail"]
    assert Webhook.objects.count() == 1


def test_second_webhook_with_the_same_url_comes_with_a_warning(client: APIClient) -> None:
    first = client.post("/api/v1/webhooks", NEW).json()
    second = client.post("/api/v1/webhooks", NEW | {"name": "Again"}).json()
    path = f"/api/v1/webhooks/{second['id']}"

    assert first["warnings"] == []
    (warning,) = second["warnings"]
    assert f"Orders ({first['id']})" in warning
    assert client.get(path).json()["warnings"] == [warning]
    assert client.patch(path, {"name": "Still"}).json()["warnings"] == [warning]
    assert client.patch(path, {"url": f"{NEW['url']}2"}).json()["warnings"] == []
    assert client.patch(path, {"url": NEW["url"]}).json()["warnings"] == [warning]


def test_change_of_what_others_have_changed_is_refused(client: APIClient) -> None:
    made = client.post("/api/v1/webhooks", NEW)
    path = made["Location"]
    known = made["ETag"]

    assert client.get(path)["ETag"] == known
    first = client.patch(path, {"name": "First"}, headers={"If-Match": known})
    second = client.patch(path, {"name": "Second"}, headers={"If-Match": known})
    gone = client.delete(path, headers={"If-Match": known})
    third = client.patch(path, {"name": "Third"}, headers={"If-Match": f'"x", {first["ETag"]}'})

    assert (first.status_code, second.status_code, gone.status_code) == (200, 412, 412)
    assert second.json()["type"].endswith(":precondition-failed")
    assert third.status_code == 200
    client.post(f"{path}/disable")
    assert client.get(path)["ETag"] != third["ETag"]
    assert client.patch(path, {"name": "Any"}, headers={"If-Match": "*"}).status_code == 200


def test_precondition_on_what_has_no_etag_fails(client: APIClient) -> None:
    path = client.post("/api/v1/projects", {"name": "Shop"})["Location"]

    response = client.patch(path, {"name": "Shops"}, headers={"If-Match": '"1"'})

    assert response.status_code == 412
    assert client.get(path).json()["name"] == "Shop"


def test_secret_can_be_imported(client: APIClient) -> None:
    secrets = ["whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2)]

    made = client.post("/api/v1/webhooks", NEW | {"secret": secrets[0]}).json()
    rotated = client.post(
        f"/api/v1/webhooks/{made['id']}/rotate-secret", {"secret": secrets[1], "overlapHours": 0}
    ).json()
    refused = client.post("/api/v1/webhooks", NEW | {"secret": "hunter2"})

    assert [made["secret"], rotated["secret"]] == secrets
    assert SigningSecret.objects.get().value == secrets[1]
    assert refused.json()["errors"][0]["pointer"] == "/secret"
    assert "hunter2" not in refused.content.decode()


def test_ed25519_keys_are_made_shown_and_replaced(client: APIClient) -> None:
    made = client.post("/api/v1/webhooks", NEW | {"ed25519": True}).json()
    path = f"/api/v1/webhooks/{made['id']}"
    body = {"scheme": "v1a", "overlapHours": 1}

    replaced = client.post(f"{path}/rotate-secret", body).json()
    keys = client.get(f"{path}/public-keys").json()["keys"]

    assert [made["publicKeys"], replaced["secret"]] == [made["publicKeys"][:1], None]
    assert [key["kid"] for key in keys] == [replaced["publicKeys"][0], made["publicKeys"][0]]
    for key in keys:
        raw = base64.urlsafe_b64decode(key["x"] + "=")
        assert key["kid"] == "whpk_" + base64.b64encode(raw).decode()
        assert (key["kty"], key["crv"], len(raw)) == ("OKP", "Ed25519", 32)
    off = client.patch(path, {"ed25519": False}).json()
    assert off["publicKeys"] == client.get(f"{path}/public-keys").json()["keys"] == []


def test_webhook_is_put_by_its_uid(client: APIClient, user: User, other_user: User) -> None:
    path = "/api/v1/webhooks/by-uid/billing"
    wish = NEW | {"metadata": {"team": "shop"}, "headers": {"X-Team": CANARY}, "timeout": 3}

    made = client.put(path, wish)
    again = client.put(path, wish)
    changed = client.put(path, NEW | {"retrySchedule": [5], "url": "http://127.0.0.1:8/hook"})

    assert (made.status_code, again.status_code, changed.status_code) == (201, 200, 200)
    assert made.json()["secret"].startswith("whsec_")
    assert client.get(made["Location"]).json()["uid"] == made.json()["uid"] == "billing"
    assert made["ETag"] == again["ETag"] != changed["ETag"]
    actions = AuditEntry.objects.order_by("id").values_list("action", flat=True)
    assert list(actions) == ["webhook.create", "webhook.change"]
    assert again.json()["metadata"] == {"team": "shop"}
    shown = changed.json()
    assert (shown["metadata"], shown["headerNames"], shown["timeout"]) == ({}, [], 15)
    assert client.get("/api/v1/webhooks?uid=billing").json()["results"][0]["id"] == shown["id"]
    service.create_webhook(other_user, uid="billing", name="a", url=shown["url"], events=["*"])
    assert client.put(path, wish).json()["id"] == shown["id"]


def test_uid_is_free_again_when_its_webhook_is_deleted(client: APIClient) -> None:
    first = client.post("/api/v1/webhooks", NEW | {"uid": "billing"})

    taken = client.post("/api/v1/webhooks", NEW | {"uid": "billing"})
    client.delete(first["Location"])
    second = client.put("/api/v1/webhooks/by-uid/billing", NEW)

    assert taken.status_code == 400
    assert "uid" in taken.json()["detail"]
    assert second.status_code == 201


@pytest.mark.parametrize(
    "wrong",
    [
        {"uid": "a b"},
        {"uid": ""},
        {"uid": "x" * 101},
        {"metadata": {"": "x"}},
        {"metadata": {"a": 1}},
        {"metadata": {"a": "x" * 501}},
        {"metadata": {str(n): "x" for n in range(51)}},
        {"metadata": []},
    ],
)
def test_wrong_uids_and_metadata_are_refused(client: APIClient, wrong: dict[str, Any]) -> None:
    response = client.post("/api/v1/webhooks", NEW | wrong)

    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"].startswith(f"/{next(iter(wrong))}")
    assert not Webhook.objects.exists()


@pytest.mark.parametrize(
    ("before", "wish", "after"),
    [
        ("none", {"order": "object"}, "object"),
        ("object", {"order": "all"}, "all"),
        # What clients send that know only two orders.
        ("none", {"ordered": True}, "all"),
        ("all", {"ordered": True}, "all"),
        ("object", {"ordered": True}, "object"),
        ("object", {"ordered": False}, "none"),
        ("none", {"ordered": True, "order": "object"}, "object"),
    ],
)
def test_order_is_chosen_by_name_or_as_before(
    client: APIClient, make_webhook: Callable[..., Webhook], before: str, wish: Any, after: str
) -> None:
    webhook = make_webhook(order=before)

    shown = client.patch(path_of(webhook), wish).json()

    assert (shown["order"], shown["ordered"]) == (after, after != "none")
    webhook.refresh_from_db()
    assert (webhook.order, webhook.ordered) == (after, after != "none")
    put = client.put("/api/v1/webhooks/by-uid/shop", NEW | wish).json()
    assert put["order"] == (wish.get("order") or ("all" if wish["ordered"] else "none"))


@pytest.mark.parametrize(
    ("wish", "pointer"),
    [
        ({"order": "objects"}, "/order"),
        ({"order": True}, "/order"),
        ({"ordered": "object"}, "/ordered"),
        ({"order": "none", "ordered": True}, "/ordered"),
        ({"order": "object", "ordered": False}, "/ordered"),
    ],
)
def test_order_that_cannot_be_is_refused(client: APIClient, wish: Any, pointer: str) -> None:
    response = client.post("/api/v1/webhooks", NEW | wish)

    assert response.status_code == 400
    assert [one["pointer"] for one in response.json()["errors"]] == [pointer]
