"""What the buttons do, and what they leave in the audit log."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.hashers import make_password
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone
from django.utils.html import escape

from projects.models import Project, User
from tests.webhooks.admin.conftest import PAYMENT, fail
from tests.webhooks.admin.test_overtaken import FORM
from webhooks import catalog, service
from webhooks.admin.operations import Operation
from webhooks.admin.webhooks import WebhookAdmin
from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.errors import SecretRefusedError, WebhookNotSendingError
from webhooks.models import ApiToken, AuditEntry, Delivery, Event, Pause, Redelivery, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db


def entries() -> list[tuple[str, dict[str, Any]]]:
    return [(one.action, one.changes) for one in AuditEntry.objects.order_by("id")]


def said(answer: Any) -> str:
    return " ".join(str(message) for message in get_messages(answer.wsgi_request))


def page_of(thing: Any, name: str = "change") -> str:
    return f"/admin/webhooks/{thing._meta.model_name}/{thing.pk}/{name}/"


def test_disable_needs_a_reason_and_is_written_down(operator: Client, webhook: Webhook) -> None:
    assert operator.post(page_of(webhook, "disable")).status_code == 422
    assert entries() == []

    answer = operator.post(page_of(webhook, "disable"), {"reason": "they asked"})

    assert answer["Location"] == page_of(webhook)
    webhook.refresh_from_db()
    assert (webhook.active, webhook.disabled_reason) == (False, "they asked")
    (entry,) = AuditEntry.objects.all()
    assert entry.actor_id == User.objects.get(username="staff").pk
    assert (entry.action, entry.object_reference) == ("webhook.disable", f"webhook:{webhook.pk}")
    assert entry.changes == {"active": [True, False], "reason": "they asked"}
    assert (entry.source_address, entry.request_id) == ("192.0.2.7", "req-1")


def test_enable_starts_afresh(operator: Client, webhook: Webhook, delivery: Delivery) -> None:
    service.disable(webhook, "broken")
    Webhook.objects.filter(pk=webhook.pk).update(
        breaker_state=BreakerState.OPEN, failing_since=timezone.now()
    )

    operator.post(page_of(webhook, "enable"), {"send": "all"})

    webhook.refresh_from_db()
    assert webhook.active
    assert (webhook.breaker_state, webhook.failing_since) == (BreakerState.CLOSED, None)
    assert entries() == [
        (
            "webhook.enable",
            {"active": [False, True], "disabled_reason": ["broken", ""], "waiting": "all"},
        )
    ]


@pytest.mark.parametrize(
    ("operation", "form", "is_active", "problem"),
    [
        ("enable", {"send": "none"}, True, "is not disabled"),
        ("disable", {"reason": "mine"}, False, "is disabled already"),
    ],
)
def test_a_page_of_before_switches_nothing_and_says_why(
    operator: Client,
    webhook: Webhook,
    event: Event,
    operation: str,
    form: dict[str, str],
    is_active: bool,
    problem: str,
) -> None:
    if not is_active:
        service.disable(webhook, "410 Gone")

    answer = operator.post(page_of(webhook, operation), form)

    assert answer.status_code == 422
    assert problem in answer.content.decode()
    assert event.deliveries.get().status == DeliveryStatus.PENDING
    webhook.refresh_from_db()
    assert webhook.disabled_reason == ("" if is_active else "410 Gone")
    assert entries() == []


@pytest.mark.usefixtures("password")
@pytest.mark.parametrize("operation", WebhookAdmin.operations, ids=lambda one: one.name)
def test_nothing_is_done_with_a_deleted_webhook(
    operator: Client, webhook: Webhook, delivery: Delivery, operation: type[Operation]
) -> None:
    if operation.name == "new":
        return
    service.delete_webhook(webhook)
    before = Webhook.objects.values().get()

    answer = operator.post(page_of(webhook, operation.name), FORM)

    assert answer.status_code == 422
    assert "It is deleted" in answer.content.decode()
    assert Webhook.objects.values().get() == before
    assert entries() == []


def test_settings_of_a_deleted_webhook_can_be_read_only(operator: Client, webhook: Webhook) -> None:
    service.delete_webhook(webhook)

    assert operator.post(page_of(webhook, "settings"), {"name": "New"}).status_code == 403
    assert operator.get(page_of(webhook, "settings")).status_code == 200
    with pytest.raises(WebhookNotSendingError, match="is deleted"):
        service.update_webhook(webhook, name="New")
    with pytest.raises(SecretRefusedError, match="is deleted"):
        service.rotate_secret(webhook)


def test_delete_is_soft(operator: Client, webhook: Webhook) -> None:
    operator.post(page_of(webhook, "remove"))

    webhook.refresh_from_db()
    assert webhook.deleted_at is not None
    assert operator.get(page_of(webhook)).status_code == 200
    assert [action for action, _ in entries()] == ["webhook.delete"]


def test_who_deletes_second_is_told_and_writes_nothing(
    operator: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Operation.find

    def find_late(self: Any, object_id: str | None) -> Any:
        found = find(self, object_id)
        assert service.delete_webhook(Webhook.objects.get())
        return found

    monkeypatch.setattr(Operation, "find", find_late)

    answer = operator.post(page_of(webhook, "remove"))

    assert "The webhook is deleted" in answer.content.decode()
    assert entries() == []


def test_settings_change_by_the_service(operator: Client, webhook: Webhook) -> None:
    answer = operator.post(
        page_of(webhook, "settings"),
        {
            "name": "Orders", "url": "HTTPS://Receiver.example/new", "events": "project.*, user.created",
            "timeout_seconds": 5, "max_retries": 3, "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000, "batch_milliseconds": 0, "retry_delay_seconds": 60,
        },
    )  # fmt: skip

    assert answer.status_code == 302
    webhook.refresh_from_db()
    assert webhook.url == "https://receiver.example/new"
    assert webhook.events == ["project.*", "user.created"]
    assert (webhook.timeout_seconds, webhook.max_retries, webhook.revision) == (5, 3, 2)
    assert webhook.headers == {"X-Api-Key": "custom-value"}
    assert entries() == [
        (
            "webhook.change",
            {
                "url": ["https://receiver.example/hook", "HTTPS://Receiver.example/new"],
                "events": [["*"], ["project.*", "user.created"]],
                "timeout_seconds": [15, 5],
                "max_retries": [10, 3],
            },
        )
    ]


def test_settings_of_an_old_page_take_nothing_back(operator: Client, webhook: Webhook) -> None:
    page = operator.get(page_of(webhook, "settings")).content.decode()
    assert f'name="revision" value="{webhook.revision}"' in page
    old = {"name": "Mine", "url": webhook.url, "events": "*", "revision": webhook.revision}
    service.update_webhook(webhook, events=["project.deleted"], description="by another")

    answer = operator.post(page_of(webhook, "settings"), old)

    shown = answer.content.decode()
    assert answer.status_code == 422
    assert shown.count("The settings were changed meanwhile") == 1
    assert "by another" in shown
    assert f'name="revision" value="{webhook.revision}"' in shown
    webhook.refresh_from_db()
    assert (webhook.name, webhook.events, entries()) == ("Orders", ["project.deleted"], [])


def test_custom_headers_are_written_and_never_shown(operator: Client, webhook: Webhook) -> None:
    values = {
        "name": "Orders", "url": webhook.url, "events": "*", "timeout_seconds": 15,
        "max_retries": 10, "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000, "batch_milliseconds": 0, "retry_delay_seconds": 60, "custom_headers": "X-Token: hunter2",
    }  # fmt: skip

    operator.post(page_of(webhook, "settings"), values)

    webhook.refresh_from_db()
    assert webhook.headers == {"X-Token": "hunter2"}
    assert b"hunter2" not in operator.get(page_of(webhook, "settings")).content
    assert b"X-Token" in operator.get(page_of(webhook, "settings")).content
    assert entries() == [("webhook.change", {"custom_headers": "•••"})]


def test_custom_headers_are_given_or_removed(operator: Client, webhook: Webhook) -> None:
    values = {
        "name": "Orders", "url": webhook.url, "events": "*", "timeout_seconds": 15,
        "max_retries": 10, "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000, "batch_milliseconds": 0, "retry_delay_seconds": 60, "custom_headers": "X-Token: hunter2", "remove_headers": "on",
    }  # fmt: skip

    answer = operator.post(page_of(webhook, "settings"), values)

    assert "either, not both" in answer.content.decode()
    webhook.refresh_from_db()
    assert webhook.headers == {"X-Api-Key": "custom-value"}


def test_schedule_beside_another_number_of_retries_is_refused(
    operator: Client, webhook: Webhook
) -> None:
    values = {
        "name": "Orders", "url": webhook.url, "events": "*", "timeout_seconds": 15,
        "max_retries": 3, "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000, "batch_milliseconds": 0, "retry_delay_seconds": 60, "retry_schedule": "5, 10",
    }  # fmt: skip

    answer = operator.post(page_of(webhook, "settings"), values)

    assert set(answer.context["adminform"].form.errors) == {"retry_schedule"}
    webhook.refresh_from_db()
    assert (webhook.max_retries, webhook.retry_schedule) == (10, None)


def test_wrong_settings_are_refused_by_name(operator: Client, webhook: Webhook) -> None:
    answer = operator.post(
        page_of(webhook, "settings"),
        {
            "name": "Orders", "url": "https://user:pw@x.example/", "events": "project.exploded",
            "timeout_seconds": 15, "max_retries": 99, "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000, "batch_milliseconds": 0, "retry_delay_seconds": 60,
            "custom_headers": "Host: evil",
        },
    )  # fmt: skip

    assert answer.status_code == 200
    errors = answer.context["adminform"].form.errors
    assert set(errors) == {"url", "events", "max_retries", "custom_headers"}
    webhook.refresh_from_db()
    assert (webhook.revision, entries()) == (1, [])


def test_add_makes_a_platform_webhook_and_shows_its_secret_once(operator: Client) -> None:
    answer = operator.post(
        "/admin/webhooks/webhook/new/",
        {"is_platform": "on", "name": "Audit", "url": "https://audit.example/", "events": "user.*"},
    )

    webhook = Webhook.objects.get()
    assert (webhook.is_platform, webhook.owner, webhook.events) == (True, None, ["user.*"])
    assert webhook.secrets.get().value.encode() in answer.content
    assert "no-store" in answer["Cache-Control"]
    assert [action for action, _ in entries()] == ["webhook.create"]


def test_add_for_an_owner_that_does_not_exist_is_refused(operator: Client) -> None:
    answer = operator.post(
        "/admin/webhooks/webhook/new/",
        {"owner": "nobody@example.com", "name": "A", "url": "https://a.example/", "events": "*"},
    )

    assert answer.status_code == 422
    assert "No owner has this e-mail address or id." in answer.content.decode()
    assert not Webhook.objects.exists()


def test_rotate_shows_the_new_secret_once(operator: Client, webhook: Webhook) -> None:
    old = webhook.secrets.get()

    answer = operator.post(page_of(webhook, "rotate-secret"), {"overlap": "3600"})

    fresh = webhook.secrets.get(expires_at=None)
    old.refresh_from_db()
    assert old.expires_at is not None
    assert fresh.value.encode() in answer.content
    assert old.value.encode() not in answer.content
    assert "no-store" in answer["Cache-Control"]
    assert timedelta(minutes=59) < old.expires_at - timezone.now() <= timedelta(hours=1)
    assert entries() == [("secret.rotate", {"overlap_seconds": 3600.0})]
    page = operator.get(page_of(webhook, "secrets")).content.decode()
    assert fresh.value not in page
    assert f"••••{fresh.value.rstrip('=')[-4:]}" in page


def test_rotate_at_once_leaves_one_secret(operator: Client, webhook: Webhook) -> None:
    operator.post(page_of(webhook, "rotate-secret"), {"overlap": "0"})

    assert webhook.secrets.count() == 1


def test_revoke_takes_the_older_ones(operator: Client, webhook: Webhook) -> None:
    service.rotate_secret(webhook)

    operator.post(page_of(webhook, "revoke-secrets"))
    again = operator.post(page_of(webhook, "revoke-secrets"))

    assert webhook.secrets.get().expires_at is None
    assert again.status_code == 422
    assert entries() == [("secret.revoke", {"count": 1})]


def test_reveal_needs_a_reason_and_a_password_and_is_written_down(
    operator: Client, webhook: Webhook, password: str
) -> None:
    secret = webhook.secrets.get().value
    for wrong in ({}, {"reason": "ticket 7"}, {"reason": "ticket 7", "password": "guess"}):
        refused = operator.post(page_of(webhook, "reveal-secrets"), wrong)
        assert refused.status_code == 422
        assert secret.encode() not in refused.content
    assert entries() == [("secret.refuse", {})]

    answer = operator.post(
        page_of(webhook, "reveal-secrets"), {"reason": "ticket 7", "password": password}
    )

    assert secret.encode() in answer.content
    assert "no-store" in answer["Cache-Control"]
    assert entries()[1:] == [("secret.reveal", {"reason": "ticket 7", "count": 1})]
    assert secret.encode() not in operator.get(page_of(webhook, "history")).content


def test_a_reveal_that_cannot_be_written_down_shows_nothing(
    operator: Client, webhook: Webhook, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no log")

    monkeypatch.setattr("webhooks.repair.audit_log.record", fails)

    with pytest.raises(RuntimeError):
        operator.post(
            page_of(webhook, "reveal-secrets"), {"reason": "ticket 7", "password": password}
        )


def test_what_cannot_be_written_down_is_not_done(
    operator: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no log")

    monkeypatch.setattr("webhooks.repair.audit_log.record", fails)

    with pytest.raises(RuntimeError):
        operator.post(page_of(webhook, "disable"), {"reason": "x"})

    webhook.refresh_from_db()
    assert webhook.active


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (200, "It was received"),
        (503, "&lt;b&gt;busy&lt;/b&gt;"),
    ],
)
def test_test_now_says_what_came_back(
    operator: Client, make_webhook: Callable[..., Webhook], status: int, told: str
) -> None:
    with HttpReceiver() as receiver:
        receiver.script(Behaviour(status=status, body=b"<b>busy</b>"))
        webhook = make_webhook(url=receiver.url)

        answer = operator.post(page_of(webhook, "test"), {"event_type": "payment.failed"})

        (received,) = receiver.requests
    assert received.event_type == "payment.failed"
    assert told in answer.content.decode()
    ((action, changes),) = entries()
    assert (action, changes["response_code"]) == ("webhook.test", status)
    assert (changes["event_type"], changes["event_id"]) == ("payment.failed", received.event_id)
    again = operator.get(page_of(webhook, "test")).content.decode()
    assert "Tests so far" in again
    assert '<option value="payment.failed">' in again


def test_a_test_of_an_unknown_type_is_refused(operator: Client, webhook: Webhook) -> None:
    answer = operator.post(page_of(webhook, "test"), {"event_type": "payment.nonsense"})

    assert answer.status_code == 422
    assert entries() == []


def test_owners_are_suggested_to_those_who_may_make_webhooks(
    operator: Client, staff: Callable[..., Client], user: User, other_user: User
) -> None:
    url = "/admin/webhooks/webhook/owners/"

    assert operator.get(url, {"q": "AD"}).json() == {"owners": ["ada@example.com"]}
    assert operator.get(url, {"q": "a"}).json() == {"owners": []}
    User.objects.filter(username="staff").update(is_superuser=False)
    assert staff("webhooks.view_webhook").get(url, {"q": "ad"}).status_code == 403


def test_add_offers_event_types_with_their_descriptions(operator: Client) -> None:
    page = operator.get("/admin/webhooks/webhook/new/").content.decode()

    for one in catalog.all_types():
        assert f'value="{one.name}"' in page
        assert escape(one.description) in page

    answer = operator.post(
        "/admin/webhooks/webhook/new/",
        {"is_platform": "on", "name": "", "url": "x", "events": ["user.*", "payment.failed"]},
    )
    again = answer.content.decode()
    assert 'value="user.*" checked' in again
    assert 'value="payment.failed" checked' in again


def test_test_now_shows_no_answer_to_those_who_may_not_read_it(
    staff: Callable[..., Client], make_webhook: Callable[..., Webhook]
) -> None:
    with HttpReceiver() as receiver:
        receiver.script(Behaviour(status=503, body=b"<b>busy</b>"))
        webhook = make_webhook(url=receiver.url)

        answer = staff("webhooks.change_webhook").post(page_of(webhook, "test"))

    assert "The test failed" in answer.content.decode()
    assert "busy" not in answer.content.decode()


def test_a_disabled_webhook_is_not_tested(operator: Client, webhook: Webhook) -> None:
    service.disable(webhook, "x")

    assert operator.post(page_of(webhook, "test")).status_code == 422
    assert entries() == []


def test_redeliver_failed_counts_first_and_then_acts(
    operator: Client, webhook: Webhook, delivery: Delivery
) -> None:
    assert (
        '<b data-test="count">1</b>'
        in operator.get(page_of(webhook, "redeliver-failed")).content.decode()
    )

    answer = operator.post(page_of(webhook, "redeliver-failed"))

    redelivery = Redelivery.objects.get()
    assert answer["Location"] == page_of(redelivery)
    assert redelivery.matched_count == 1
    assert redelivery.requested_by == User.objects.get(username="staff")
    assert [action for action, _ in entries()] == ["webhook.redeliver_failed", "redelivery.create"]


def test_redeliver_failed_of_nothing_is_refused(operator: Client, webhook: Webhook) -> None:
    answer = operator.post(page_of(webhook, "redeliver-failed"))

    assert answer.status_code == 422
    assert (Redelivery.objects.count(), entries()) == (0, [])


def test_redeliver_sends_one_delivery_again(operator: Client, delivery: Delivery) -> None:
    operator.post(page_of(delivery, "redeliver"))

    delivery.refresh_from_db()
    assert (delivery.status, delivery.round) == (DeliveryStatus.PENDING, 2)
    assert [action for action, _ in entries()] == ["delivery.redeliver"]


def test_redeliver_leaves_what_is_in_flight_alone(operator: Client, delivery: Delivery) -> None:
    Delivery.objects.filter(pk=delivery.pk).update(status=DeliveryStatus.SENDING)

    answer = operator.post(page_of(delivery, "redeliver"))

    assert answer.status_code == 422
    assert "in flight" in answer.content.decode()
    assert entries() == []


def test_cancel_takes_what_waits_and_nothing_else(
    operator: Client, event: Event, delivery: Delivery
) -> None:
    assert operator.post(page_of(delivery, "cancel")).status_code == 422
    Delivery.objects.filter(pk=delivery.pk).update(status=DeliveryStatus.RETRYING, finished_at=None)

    operator.post(page_of(delivery, "cancel"))

    delivery.refresh_from_db()
    assert delivery.status == DeliveryStatus.CANCELLED
    assert entries() == [("delivery.cancel", {"status": ["RETRYING", "CANCELLED"]})]


def test_replay_reaches_a_webhook_made_later(
    operator: Client, event: Event, make_webhook: Callable[..., Webhook]
) -> None:
    later = make_webhook(name="Later")

    operator.post(page_of(event, "replay"), {"webhooks": [str(later.pk)]})

    assert Redelivery.objects.get().is_replay
    assert [action for action, _ in entries()] == ["event.replay"]


def test_replay_to_somebody_elses_webhook_is_refused(
    operator: Client, event: Event, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    theirs = make_webhook(owner=other_user)

    answer = operator.post(page_of(event, "replay"), {"webhooks": [str(theirs.pk)]})

    assert answer.status_code == 422
    assert not Redelivery.objects.exists()


def test_pause_and_resume(operator: Client) -> None:
    operator.post("/admin/webhooks/workerheartbeat/pause/", {"reason": "upgrade"})

    assert Pause.objects.get().reason == "upgrade"
    assert "upgrade" in operator.get("/admin/webhooks/workerheartbeat/").content.decode()
    assert "upgrade" in operator.get("/admin/").content.decode()
    again = operator.post("/admin/webhooks/workerheartbeat/pause/", {"reason": "upgrade"})
    assert again.status_code == 422

    operator.post("/admin/webhooks/workerheartbeat/resume/")

    assert not Pause.objects.exists()
    assert operator.post("/admin/webhooks/workerheartbeat/resume/").status_code == 422
    assert [action for action, _ in entries()] == ["sending.pause", "sending.resume"]


def test_a_redelivery_is_stopped_and_dismissed(
    operator: Client, webhook: Webhook, delivery: Delivery
) -> None:
    redelivery = service.redeliver(service.Scope(webhook_id=webhook.pk))

    operator.post(page_of(redelivery, "cancel"))
    assert operator.post(page_of(redelivery, "cancel")).status_code == 422
    assert page_of(redelivery) in operator.get("/admin/").content.decode()
    operator.post(page_of(redelivery, "dismiss"))

    redelivery.refresh_from_db()
    assert redelivery.status == Redelivery.Status.CANCELLED
    assert redelivery.dismissed_at is not None
    assert page_of(redelivery) not in operator.get("/admin/").content.decode()
    assert [action for action, _ in entries()] == ["redelivery.cancel", "redelivery.dismiss"]


def test_selected_deliveries_are_counted_confirmed_and_sent(
    operator: Client, user: User, webhook: Webhook, delivery: Delivery
) -> None:
    other = fail(service.trigger_event("payment.failed", user, PAYMENT).deliveries.get())
    chosen = [str(delivery.pk), str(other.pk)]

    page = operator.post(
        "/admin/webhooks/delivery/",
        {"action": "redeliver_selected", "_selected_action": chosen},
    )

    assert page.context["count"] == 2
    assert not Redelivery.objects.exists()
    answer = operator.post(
        "/admin/webhooks/redelivery/new/",
        {"deliveries": f"{delivery.public_id},{other.public_id}"},
    )
    redelivery = Redelivery.objects.get()
    assert answer["Location"] == page_of(redelivery)
    assert redelivery.matched_count == 2
    ((action, changes),) = entries()
    assert (action, changes["delivery_ids"], changes["matched"]) == ("redelivery.create", 2, 2)


def test_domain_changes_are_written_down(operator: Client, project: Project) -> None:
    operator.post(
        f"/admin/projects/project/{project.pk}/change/",
        {"name": "Shop", "owner": project.owner_id, "description": project.description},
    )
    operator.post(f"/admin/projects/project/{project.pk}/delete/", {"post": "yes"})

    assert entries() == [
        ("project.change", {"name": ["Website", "Shop"]}),
        ("project.delete", {"name": "Shop"}),
    ]


def test_a_password_is_set_without_a_trace_of_it(operator: Client, user: User) -> None:
    operator.post(
        f"/admin/projects/user/{user.pk}/password/",
        {"password1": "correct horse", "password2": "correct horse", "usable_password": "true"},
    )

    user.refresh_from_db()
    assert user.check_password("correct horse")
    assert entries() == [("user.password", {"password": "•••"})]


TOKEN_FORM = {"user": "ada@example.com", "name": "CI", "scopes": ["read"], "days": 30, "password": "pass"}  # fmt: skip


@pytest.mark.usefixtures("password")
def test_an_api_token_is_shown_once_and_revoked(operator: Client, user: User) -> None:
    answer = operator.post("/admin/webhooks/apitoken/new/", TOKEN_FORM)

    token = ApiToken.objects.get()
    shown = answer.context["values"][0][1]
    assert shown.encode() in answer.content
    assert "no-store" in answer["Cache-Control"]
    assert (token.user, token.scopes, token.is_service) == (user, ["read"], False)
    assert shown not in operator.get("/admin/webhooks/apitoken/").content.decode()
    assert shown not in operator.get(page_of(token)).content.decode()
    headers = {"Authorization": f"Bearer {shown}"}
    assert Client(headers=headers).get("/api/v1/webhooks").status_code == 200

    operator.post(page_of(token, "delete"), {"post": "yes"})

    assert not ApiToken.objects.exists()
    assert [action for action, _ in entries()] == ["apitoken.create", "apitoken.delete"]
    assert shown not in str(entries())


@pytest.mark.usefixtures("password")
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"password": "guess"}, "This is not your password."),
        ({"user": "nobody@example.com"}, "No user has this name or id, or several have it."),
        ({"is_service": "on"}, "may not trigger events for others."),
        ({"scopes": ["everything"]}, "not one of the available choices"),
        ({"days": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_api_token_is_refused(
    operator: Client, user: User, change: dict[str, Any], problem: str
) -> None:
    answer = operator.post("/admin/webhooks/apitoken/new/", TOKEN_FORM | change)

    assert answer.status_code == 422
    assert problem in answer.content.decode()
    assert not ApiToken.objects.exists()


@pytest.mark.usefixtures("password")
def test_an_api_token_is_made_for_the_user_whose_address_is_written_so(
    operator: Client, user: User
) -> None:
    User.objects.create(username="other", email="ADA@example.com")

    ambiguous = operator.post(
        "/admin/webhooks/apitoken/new/", TOKEN_FORM | {"user": "Ada@example.com"}
    )
    operator.post("/admin/webhooks/apitoken/new/", TOKEN_FORM)

    assert "or several have it." in ambiguous.content.decode()
    assert ApiToken.objects.get().user == user


@pytest.mark.usefixtures("password")
def test_an_api_token_too_many_is_refused(
    operator: Client, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.models.token.MAX_TOKENS", 1)

    assert operator.post("/admin/webhooks/apitoken/new/", TOKEN_FORM).status_code == 200
    answer = operator.post("/admin/webhooks/apitoken/new/", TOKEN_FORM)

    assert (answer.status_code, ApiToken.objects.count()) == (422, 1)
    assert "revoke one that is not needed" in answer.content.decode()


def test_pages_of_an_unreadable_webhook_say_so(
    operator: Client, make_webhook: Callable[..., Webhook]
) -> None:
    lost = make_webhook(headers={"X-B": "2"}, ed25519=True)
    older = lost.secret
    service.rotate_secret(lost)
    Webhook.objects.update(headers_encrypted=b"\x01lost" + bytes(40))
    lost.secrets.exclude(expires_at__isnull=False).update(value_encrypted=b"\x01lost" + bytes(40))
    User.objects.filter(username="staff").update(password=make_password("pw"))
    operator.force_login(User.objects.get(username="staff"))

    for name in ("change", "settings", "secrets", "verify", "history", "deliveries"):
        assert operator.get(page_of(lost, name)).status_code == 200, name
    assert operator.get("/admin/webhooks/webhook/").status_code == 200
    assert "cannot be decrypted" in operator.get(page_of(lost)).text
    assert "cannot be decrypted" in operator.get(page_of(lost, "secrets")).text
    shown = operator.post(page_of(lost, "reveal-secrets"), {"reason": "why", "password": "pw"})
    assert older in shown.text
    assert "cannot be decrypted" in shown.text
    rotated = operator.post(page_of(lost, "rotate-secret"), {"overlap": "86400"})
    assert rotated.status_code == 200
    assert lost.secrets.filter(scheme="v1").count() == 2


def test_second_webhook_with_the_same_url_comes_with_a_warning(
    operator: Client, user: User, webhook: Webhook
) -> None:
    data = {"owner": user.email, "name": "Again", "url": webhook.url, "events": "*"}

    shown = operator.post("/admin/webhooks/webhook/new/", data)

    assert f"{webhook.name} ({webhook.public_id})" in shown.text
    again = Webhook.objects.get(name="Again")
    settings = {
        "name": "Still", "url": webhook.url, "events": "*", "timeout_seconds": 15,
        "max_retries": 10, "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000, "batch_milliseconds": 0, "retry_delay_seconds": 60,
    }  # fmt: skip
    answer = operator.post(page_of(again, "settings"), settings)
    assert answer.status_code == 302, answer.text
    assert "have the same URL" in said(answer)
