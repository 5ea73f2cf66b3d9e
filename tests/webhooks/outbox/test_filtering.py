"""Filters where events are stored, explained, replayed and previewed."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, transaction
from django.utils import timezone

from projects.models import Project, User
from tests.webhooks.history import DELETED
from webhooks import service
from webhooks.errors import FilterInvalidError
from webhooks.models import Delivery, Event, Webhook
from webhooks.outbox import store
from webhooks.repair import redelivery_batches, redelivery_scope

pytestmark = pytest.mark.django_db

DEAR = {"amount": {"gte": 10_000}, "currency": {"in": ["EUR", "USD"]}}


def payment(amount: int, currency: str = "EUR", **data: Any) -> dict[str, Any]:
    plain = {"id": "pay_1", "subscriptionId": None, "amount": amount, "currency": currency}
    return {**plain, "paidAt": "2026-11-23T10:30:00.123Z", **data}


def pay(user: User, *amounts: int) -> list[Event]:
    triggers = [service.Trigger("payment.succeeded", user, payment(amount)) for amount in amounts]
    return service.trigger_events(triggers)


def amounts_of(webhook: Webhook) -> list[str]:
    events = Event.objects.filter(deliveries__webhook=webhook).order_by("id")
    return [bytes(one.payload).decode().split('"amount":')[1].split(",")[0] for one in events]


def test_only_what_the_filter_lets_through_becomes_a_delivery(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    dear = make_webhook(events=["payment.*"], filter=DEAR)
    all_ = make_webhook(events=["payment.*"])
    platform = make_webhook(owner=None, is_platform=True, filter={"amount": {"lt": 500}})

    events = pay(user, 499, 10_000, 9_999, 20_000)

    assert amounts_of(dear) == ["10000", "20000"]
    assert amounts_of(all_) == ["499", "10000", "9999", "20000"]
    assert amounts_of(platform) == ["499"]
    assert [event.fanout_count for event in events] == [2, 2, 1, 2]
    stored = (
        Event.objects.filter(type="payment.succeeded")
        .order_by("id")
        .values_list("fanout_count", flat=True)
    )
    assert list(stored) == [2, 2, 1, 2]


def test_a_payload_is_parsed_only_where_a_webhook_has_a_filter(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    plain = make_webhook(events=["payment.*"])
    make_webhook(events=["project.*"], filter={"name": "Shop"})
    broken = [store.build_event("payment.failed", user.pk, b"no JSON") for _ in range(2)]

    store.store_events(broken[:1])
    make_webhook(events=["payment.*"], filter=DEAR)
    with pytest.raises(DataError), transaction.atomic():
        store.store_events(broken[1:])

    assert Delivery.objects.filter(webhook=plain).count() == 1


def test_a_saved_model_is_filtered_too(user: User, make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook(events=["project.*"], filter={"name": {"startsWith": "Shop"}})

    for name in ("Shop: front", "Site", "Shop: back"):
        Project.objects.create(owner=user, name=name)

    assert Delivery.objects.filter(webhook=webhook).count() == 2


def test_a_filter_is_changed_and_taken_away(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["payment.*"], filter=DEAR)

    service.update_webhook(webhook, filter={"amount": 5})
    pay(user, 5, 10_000)
    service.update_webhook(webhook, name="Renamed")
    pay(user, 5, 6)
    service.update_webhook(webhook, filter=None)
    pay(user, 7)

    assert amounts_of(webhook) == ["5", "5", "7"]


def test_a_filter_must_fit_the_types_whichever_of_both_changes(
    make_webhook: Callable[..., Webhook],
) -> None:
    webhook = make_webhook(events=["payment.*"], filter=DEAR)

    with pytest.raises(
        ValidationError, match=r"amuont: payment\.failed, payment\.succeeded has no"
    ):
        service.update_webhook(webhook, filter={"amuont": 5})
    with pytest.raises(ValidationError) as refused:
        service.update_webhook(webhook, events=["project.created"])
    with pytest.raises(ValidationError, match="at least one condition"):
        make_webhook(filter={})

    assert set(refused.value.message_dict) == {"filter"}
    webhook.refresh_from_db()
    assert (webhook.events, webhook.filter) == (["payment.*"], DEAR)


def test_nobody_writes_a_filter_that_is_not_compiled(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook(events=["payment.*"])

    with pytest.raises(IntegrityError), transaction.atomic():
        Webhook.objects.filter(pk=webhook.pk).update(filter=DEAR)
    webhook.filter = DEAR
    webhook.save(update_fields=["filter"])

    webhook.refresh_from_db()
    assert webhook.filter_path is not None


def test_warns_of_types_that_the_filter_leaves_out(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook(events=["payment.*", "project.created"], filter=DEAR)

    (warning,) = service.warnings_of(webhook)

    assert "The filter lets no event of project.created through." in warning


def reason_of(webhook: Webhook, event: Event, *, with_values: bool = True) -> tuple[bool, str]:
    (found,) = [
        one
        for one in service.explain(event, with_values=with_values).considered
        if one.webhook == webhook
    ]
    return found.matches, found.reason


def test_explains_which_condition_failed(
    user: User,
    make_webhook: Callable[..., Webhook],
    django_assert_num_queries: Callable[..., Any],
) -> None:
    dear = make_webhook(events=["payment.*"], filter=DEAR)
    failed = make_webhook(events=["payment.*"], filter={"$or": [{"reason": "x"}, {"amount": 1}]})
    plain = make_webhook(events=["payment.*"])
    cheap, good = pay(user, 500, 10_000)

    assert reason_of(dear, cheap) == (False, "It is filtered: amount is 500.")
    assert reason_of(failed, cheap) == (False, "It is filtered: reason is missing, amount is 500.")
    assert reason_of(dear, cheap, with_values=False) == (False, "It is filtered by amount.")
    assert reason_of(dear, good)[0]
    assert reason_of(plain, cheap)[0]
    with django_assert_num_queries(3):
        service.explain(cheap)


def test_explains_that_an_erased_event_cannot_be_looked_at(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["payment.*"], filter=DEAR)
    (event,) = pay(user, 10_000)
    Event.objects.update(payload=b"")
    event.refresh_from_db()

    assert reason_of(webhook, event)[1].startswith("The payload was erased")
    assert service.preview_filter(webhook).considered == 0


def test_a_replay_sends_what_the_filter_lets_through(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    cheap, good = pay(user, 500, 10_000)
    (erased,) = pay(user, 20_000)
    Event.objects.filter(id=erased.id).update(payload=b"")
    webhook = make_webhook(events=["payment.*"], filter=DEAR)
    since = timezone.now() - timedelta(hours=1)

    asked = service.replay(webhook, since, requested_by=user)
    missing_at = [redelivery_scope.webhooks_missing(event) for event in (cheap, good)]
    redelivery_batches.run(asked.id)

    asked.refresh_from_db()
    assert (asked.status, asked.matched_count, asked.queued_count) == ("done", 1, 1)
    assert amounts_of(webhook) == ["10000"]
    assert missing_at == [[], [webhook]]


def test_preview_tells_what_would_have_been_left_out(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["payment.*"])
    events = pay(user, *range(9_990, 10_015))
    pay(other_user, 1, 2)
    service.trigger_event("project.deleted", user, DELETED)

    none = service.preview_filter(webhook)
    preview = service.preview_filter(webhook, {"amount": {"gte": 10_000}})

    assert (none.considered, none.matched, none.left_out) == (25, 25, [])
    assert (preview.considered, preview.matched) == (25, 15)
    assert [(one.event_id, one.reason) for one in preview.left_out] == [
        (event.id, f"It is filtered: amount is {9_990 + place}.")
        for place, event in reversed(list(enumerate(events[:10])))
    ]
    with pytest.raises(FilterInvalidError, match="amuont"):
        service.preview_filter(webhook, {"amuont": 5})
    webhook.refresh_from_db()
    assert webhook.filter is None


def test_preview_looks_at_the_last_hundred_events(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    platform = make_webhook(
        owner=None, is_platform=True, events=["payment.*"], filter={"amount": {"gte": 60}}
    )
    pay(user, *range(150))

    preview = service.preview_filter(platform)

    assert (preview.considered, preview.matched, len(preview.left_out)) == (100, 90, 10)


def test_long_values_are_shortened_where_they_are_told(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["project.*"], filter={"name": "Shop"})
    event = service.trigger_event("project.deleted", user, DELETED | {"name": "x" * 5000})

    reason = reason_of(webhook, event)[1]

    assert reason.startswith('It is filtered: name is "xxx')
    assert len(reason) < 120
