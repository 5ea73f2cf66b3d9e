"""Lists: what their filters and searches find, and how many statements a page takes."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from projects.models import User
from tests.webhooks.admin.conftest import PAYMENT, fail
from webhooks import service
from webhooks.admin.deliveries import DeliveryAdmin
from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.ids import first_id_of
from webhooks.models import Delivery, Event, Redelivery, Webhook
from webhooks.models.owner_keys import NO_OWNER
from webhooks.repair import audit_log

pytestmark = pytest.mark.django_db


def found(client: Client, url: str) -> list[Any]:
    answer = client.get(url)
    assert answer.status_code == 200, url
    return [one.pk for one in answer.context["cl"].result_list]


@pytest.fixture
def three(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> dict[str, Delivery]:
    """One that failed, one that waits, and one of long ago at another owner's webhook."""
    make_webhook()
    theirs = make_webhook(owner=other_user, name="Theirs", events=["payment.succeeded"])
    first, second = service.trigger_events(
        [service.Trigger("payment.failed", user, PAYMENT) for _ in range(2)]
    )
    old_id = first_id_of(timezone.now() - timedelta(days=3))
    Event.objects.create(id=old_id, type="payment.succeeded", owner_id=other_user.pk, payload=b"{}")
    old = Delivery.objects.create(
        id=old_id, event_id=old_id, webhook=theirs, owner_id=other_user.pk,
        event_type="payment.succeeded", status=DeliveryStatus.SUCCESS, response_code=204,
    )  # fmt: skip
    return {
        "failed": fail(first.deliveries.get()),
        "waiting": second.deliveries.get(),
        "old": old,
    }


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["waiting", "failed", "old"]),
        ("status=FAILED", ["failed"]),
        ("status=FAILED&status=SUCCESS", ["failed", "old"]),
        ("status=nonsense", []),
        ("since=1h", ["waiting", "failed"]),
        ("since=7d", ["waiting", "failed", "old"]),
        ("webhook=Theirs", ["old"]),
        ("webhook=nobody", []),
        ("owner=bob@example.com", ["old"]),
        ("owner=nobody@example.com", []),
        ("type=payment.succeeded", ["old"]),
        ("code=500", ["failed"]),
        ("code=2xx", ["old"]),
        ("code=abc", []),
        ("kind=http_status", ["failed"]),
        ("kind=http_status&code=204", []),
        ("q=del_nonsense", []),
    ],
)
def test_filters_of_deliveries(
    operator: Client, three: dict[str, Delivery], query: str, names: list[str]
) -> None:
    assert found(operator, f"/admin/webhooks/delivery/?{query}") == [three[n].pk for n in names]


def test_a_failed_attempt_leads_to_deliveries_that_succeeded_later(
    operator: Client, three: dict[str, Delivery]
) -> None:
    Delivery.objects.filter(pk=three["failed"].pk).update(
        status=DeliveryStatus.SUCCESS, failure_kind="", error="", response_code=200
    )
    cache.clear()
    page = operator.get("/admin/").content.decode()
    link = "/admin/webhooks/delivery/?since=24h&amp;failed=http_status:500"
    assert f'href="{link}"' in page

    assert found(operator, link.replace("&amp;", "&")) == [three["failed"].pk]
    assert found(operator, "/admin/webhooks/delivery/?failed=http_status") == [three["failed"].pk]
    for other in ("timeout", "http_status:503", "http_status:x", "nonsense"):
        assert found(operator, f"/admin/webhooks/delivery/?failed={other}") == []
    # A redelivery cannot select these.
    assert "Redeliver by filter" not in operator.get(link.replace("&amp;", "&")).content.decode()


def test_an_attempt_is_found_by_its_id(operator: Client, three: dict[str, Delivery]) -> None:
    delivery = three["failed"]
    attempt = delivery.attempts.get()

    assert found(operator, f"/admin/webhooks/delivery/?q={attempt.public_id}") == [delivery.pk]
    page = operator.get(f"/admin/search/?extended=1&s={attempt.public_id}").content.decode()
    assert f"/admin/webhooks/delivery/{delivery.pk}/change/#{attempt.public_id}" in page
    assert (
        f'id="{attempt.public_id}"'
        in operator.get(f"/admin/webhooks/delivery/{delivery.pk}/change/").content.decode()
    )


def test_a_range_of_time_and_its_order(operator: Client, three: dict[str, Delivery]) -> None:
    url = "/admin/webhooks/delivery/"

    assert found(operator, f"{url}?since=7d&until=2d") == [three["old"].pk]
    assert found(operator, f"{url}?until=nonsense") == []
    newest_first = found(operator, url)
    column = DeliveryAdmin.list_display.index("created") + 1
    assert found(operator, f"{url}?o={column}") == newest_first[::-1]


def test_no_list_counts_for_facets(operator: Client, three: dict[str, Delivery]) -> None:
    for model, model_admin in admin.site._registry.items():
        assert model_admin.show_facets == admin.ShowFacets.NEVER, model

    with CaptureQueriesContext(connection) as queries:
        operator.get("/admin/webhooks/delivery/?_facets=True")
    assert not [one for one in queries.captured_queries if "COUNT(" in one["sql"].upper()]


def test_deliveries_are_found_by_ids(operator: Client, three: dict[str, Delivery]) -> None:
    failed = three["failed"]
    event_id = Event.objects.get(pk=failed.event_id).public_id

    for term in (failed.public_id, str(failed.pk), event_id):
        assert found(operator, f"/admin/webhooks/delivery/?q={term}") == [failed.pk]
    term = failed.webhook.public_id
    assert len(found(operator, f"/admin/webhooks/delivery/?webhook={term}")) == 2


@pytest.mark.parametrize(
    "query",
    [
        "delivery/?webhook__owner__password__startswith=p",
        "event/?id={event}&payload__contains=2900",
        "event/?payload__startswith=7b",
        "event/?id={event}",
        "webhook/?headers_encrypted__contains=00",
        "apitoken/?digest__startswith=a",
        "apitoken/?is_service__in=1",
    ],
)
def test_what_a_list_does_not_offer_is_no_filter(
    staff: Callable[..., Client], event: Event, query: str
) -> None:
    """Else who may look at a list could guess what it does not show, such as payloads."""
    client = staff(
        *(f"webhooks.view_{one}" for one in ("delivery", "event", "webhook", "apitoken"))
    )

    answer = client.get(f"/admin/webhooks/{query.format(event=event.pk)}")

    assert answer.status_code == 400


def test_every_list_can_be_asked_for_its_filters_alone(rf: Any, operator: Client) -> None:
    request = rf.get("/")
    request.user = User.objects.get()
    for model, model_admin in admin.site._registry.items():
        filters = model_admin.get_changelist_instance(request).get_filters(request)[0]
        parameters = {str(name) for one in filters for name in one.expected_parameters()}
        # Django offers it for every field, but none of these can be null.
        offered = {name for name in parameters if not name.endswith("__isnull")}
        names = offered | {
            field.name + lookup
            for field in model._meta.get_fields()
            for lookup in ("", "__exact", "__isnull", "__contains", "__gte", "__in")
        }

        allowed = {name for name in names if model_admin.lookup_allowed(name, "1", request)}

        assert allowed == offered, model


def test_filters_of_domain_models_go_on_working(operator: Client, user: User) -> None:
    listed = [found(operator, f"/admin/projects/user/?is_staff__exact={value}") for value in "01"]

    assert listed == [[user.pk], [User.objects.get(username="staff").pk]]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["off", "open", "failing", "well"]),
        ("state=active", ["well"]),
        ("state=failing", ["open", "failing"]),
        ("state=open", ["open"]),
        ("state=disabled", ["off"]),
        ("state=deleted", ["gone"]),
        ("kind=platform", ["failing"]),
        ("q=well.example", ["well"]),
        ("q=ada@example.com", ["off", "open", "well"]),
        ("q=whk_nonsense", []),
    ],
)
def test_filters_of_webhooks(
    operator: Client, make_webhook: Callable[..., Webhook], query: str, names: list[str]
) -> None:
    now = timezone.now()
    ids = {}
    for name, owner, fields in (
        ("well", None, {}),
        ("failing", "platform", {"failing_since": now}),
        ("open", None, {"failing_since": now, "breaker_state": BreakerState.OPEN}),
        ("off", None, {"active": False}),
        ("gone", None, {"active": False, "deleted_at": now}),
    ):
        more = {"owner": None, "is_platform": True} if owner else {}
        webhook = make_webhook(name=name, url=f"https://{name}.example/", **more)
        Webhook.objects.filter(pk=webhook.pk).update(**fields)
        ids[name] = webhook.pk

    assert found(operator, f"/admin/webhooks/webhook/?{query}") == [ids[name] for name in names]


def test_a_webhook_is_found_by_its_id(operator: Client, webhook: Webhook) -> None:
    assert found(operator, f"/admin/webhooks/webhook/?q={webhook.public_id}") == [webhook.pk]


def test_audit_entries_name_who_and_what(operator: Client, user: User, webhook: Webhook) -> None:
    audit_log.record("webhook.update", webhook, actor=user, changes={"name": ["A", "B"]})
    audit_log.record("webhook.disable", webhook, changes={"reason": "5 days"})

    page = operator.get("/admin/webhooks/auditentry/").content.decode()

    assert "ada@example.com" in page
    assert "the system" in page
    assert "<s>A</s> → B" in page
    assert len(found(operator, "/admin/webhooks/auditentry/?actor=ada@example.com")) == 1
    assert len(found(operator, "/admin/webhooks/auditentry/?action=webhook.disable")) == 1
    assert len(found(operator, f"/admin/webhooks/auditentry/?q=webhook:{webhook.pk}")) == 2


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("path", "statements"),
    [
        ("/admin/webhooks/webhook/", 10),
        ("/admin/webhooks/delivery/", 7),
        ("/admin/webhooks/event/", 7),
        ("/admin/webhooks/redelivery/", 6),
        ("/admin/webhooks/auditentry/", 8),
        ("/admin/webhooks/workerheartbeat/", 8),
        ("/admin/", 20),
    ],
)
def test_a_list_takes_the_same_number_of_statements_whatever_it_shows(
    operator: Client, user: User, make_webhook: Callable[..., Webhook],
    django_assert_num_queries: Any, path: str, statements: int, count: int,
) -> None:  # fmt: skip
    for number in range(count):
        webhook = make_webhook(name=f"W{number}")
        Webhook.objects.filter(pk=webhook.pk).update(failing_since=timezone.now())
        event = service.trigger_event("payment.failed", user, PAYMENT)
        for delivery in event.deliveries.all():
            fail(delivery)
        service.redeliver(service.Scope(webhook_id=webhook.pk), requested_by=user)
        audit_log.record("webhook.disable", webhook, actor=user)
    # The home page asks once more for each that is not dismissed, three at most.
    Redelivery.objects.update(dismissed_at=timezone.now())

    with django_assert_num_queries(statements):
        operator.get(path)


def test_platform_deliveries_are_found_by_no_owner(operator: Client) -> None:
    assert found(operator, f"/admin/webhooks/delivery/?owner={NO_OWNER}") == []


RAISE_IN_GERMAN = """
DO $$ BEGIN
    RAISE 'storniere Anfrage wegen Zeitüberschreitung der Anfrage' USING ERRCODE = 'query_canceled';
END $$
"""


def test_list_that_is_too_broad_gives_up_in_every_language(operator: Client) -> None:
    def cancel(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if 'FROM "webhooks_delivery"' in sql:
            sql, parameters = RAISE_IN_GERMAN, None
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(cancel):
        answer = operator.get("/admin/webhooks/delivery/")

    assert answer.status_code == 503
    assert b"takes too long" in answer.content
