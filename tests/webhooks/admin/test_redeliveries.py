"""Bulk redelivery: the choice, its count, and the bar."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone

from projects.models import User
from tests.webhooks.admin.conftest import PAYMENT, fail
from webhooks import service
from webhooks.admin.deliveries import DeliveryAdmin
from webhooks.admin.redelivery_display import describe, progress_context, webhook_names
from webhooks.admin.redelivery_form import ScopeForm
from webhooks.choices import DeliveryStatus
from webhooks.models import Delivery, Redelivery, Webhook
from webhooks.repair.redelivery_batches import run
from webhooks.repair.redelivery_scope import Scope

pytestmark = pytest.mark.django_db

NEW = "/admin/webhooks/redelivery/new/"


@pytest.fixture
def failed(user: User, webhook: Webhook) -> list[Delivery]:
    events = service.trigger_events(
        [service.Trigger("payment.failed", user, PAYMENT) for _ in range(4)]
    )
    return [fail(event.deliveries.get()) for event in events]


def count(client: Client, query: str) -> Any:
    answer = client.get(f"{NEW}?{query}")
    assert answer.status_code == 200
    return answer.context["count"]


def test_a_choice_is_counted_before_anything_happens(
    operator: Client, webhook: Webhook, failed: list[Delivery], user: User
) -> None:
    assert count(operator, f"webhook={webhook.public_id}") == 4
    assert count(operator, "webhook=Orders&limit=3") == 3
    assert count(operator, "owner=ada@example.com&type=payment.failed&since=1h") == 4
    assert count(operator, f"webhook={webhook.pk}&status=SUCCESS") == 0
    assert count(operator, f"webhook={webhook.pk}&status=SUCCESS&status=FAILED") == 4
    assert count(operator, f"event={failed[0].event.public_id}") == 1
    assert count(operator, f"webhook={webhook.pk}&until=2020-01-01T00:00Z") == 0
    assert not Redelivery.objects.exists()


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("status=FAILED", "Select the deliveries"),
        ("webhook=nobody", "There is no such webhook."),
        ("owner=nobody@example.com", "No owner has this name or id, or several have it."),
        ("event=evt_1", "is not an id of the form"),
        ("webhook=Orders&since=yesterday", "is not a time such as 2h"),
        ("webhook=Orders&since=2026-13-01", "is not a time such as 2h"),
        ("webhook=Orders&until=soon", "is not a time such as 2h"),
        ("webhook=Orders&code=oops", "This is no code such as 503 or 5xx."),
        ("webhook=Orders&kind=oops", "Select a valid choice."),
        ("webhook=Orders&status=SENDING", "Choose at least one status."),
        # As the form sends it.
        ("webhook=Orders&limit=&deliveries=", "Choose at least one status."),
        ("webhook=Orders&deliveries=,", "Select at least one delivery."),
        ("webhook=Orders&status=FAILED&deliveries=,+,", "Select at least one delivery."),
        ("webhook=Orders&limit=0", "greater than or equal to 1"),
        ("webhook=Orders&since=2026-02-01T00:00Z&until=2026-01-01T00:00Z", "ends before it starts"),
    ],
)
def test_a_wrong_choice_says_what_is_wrong(
    operator: Client, webhook: Webhook, query: str, problem: str
) -> None:
    answer = operator.get(f"{NEW}?{query}")

    assert answer.context["count"] is None
    assert problem in answer.content.decode()


@pytest.mark.parametrize("form", [{"deliveries": ""}, {"deliveries": ","}])
def test_nothing_chosen_is_not_all_that_failed(
    operator: Client, webhook: Webhook, failed: list[Delivery], form: dict[str, str]
) -> None:
    answer = operator.post(NEW, {"webhook": webhook.public_id} | form)

    assert answer.status_code == 422
    assert not Redelivery.objects.exists()


def test_a_list_filter_goes_over_into_the_form(
    operator: Client, webhook: Webhook, failed: list[Delivery]
) -> None:
    query = f"webhook={webhook.public_id}&status=SENDING&status=FAILED&code=500&since=24h"

    page = operator.get(f"/admin/webhooks/delivery/?{query}").content.decode()

    assert "/admin/webhooks/redelivery/new/?webhook=" in page
    assert count(operator, query) == 4


def test_every_filter_of_the_list_narrows_the_redelivery(
    operator: Client, webhook: Webhook, failed: list[Delivery]
) -> None:
    # No redelivery selects by attempts; with that filter, the list has no link to the form.
    filters = {one.parameter_name for one in DeliveryAdmin.list_filter} - {"failed"}
    assert filters <= ScopeForm.base_fields.keys()
    Delivery.objects.filter(pk=failed[0].pk).update(response_code=None, failure_kind="tls")

    assert count(operator, f"webhook={webhook.pk}&kind=tls") == 1
    assert count(operator, f"webhook={webhook.pk}&code=5xx") == 3
    assert count(operator, f"webhook={webhook.pk}&code=404") == 0
    assert count(operator, f"webhook={webhook.pk}&since=6h") == 4

    operator.post(NEW, {"webhook": webhook.public_id, "kind": "tls"})
    operator.post(NEW, {"webhook": webhook.public_id, "code": "5xx"})
    by_code, by_kind = Redelivery.objects.order_by("-id")
    assert (by_kind.matched_count, by_code.matched_count) == (1, 3)
    assert "that failed with" in describe(by_kind, {})
    assert "with response code 500 to 599" in describe(by_code, {})
    run(by_code.pk)
    assert Delivery.objects.filter(redelivery=by_code).count() == 3


def test_a_time_that_is_none_selects_nothing(operator: Client, failed: list[Delivery]) -> None:
    def shown(since: str) -> int:
        answer = operator.get(f"/admin/webhooks/delivery/?since={since}")
        return len(answer.context["cl"].result_list)

    assert shown("6h") == len(failed)
    assert shown("2026-13-01") == shown("oops") == 0


def test_the_confirmed_choice_becomes_a_redelivery(
    operator: Client, webhook: Webhook, failed: list[Delivery]
) -> None:
    operator.post(NEW, {"webhook": webhook.public_id, "limit": 2, "rate_limit": "0.5"})

    row = Redelivery.objects.get()
    assert (row.matched_count, row.rate_limit, row.status) == (2, 0.5, "running")
    run(row.pk)
    assert Delivery.objects.filter(redelivery=row).count() == 2


def test_the_bar_follows_and_comes_to_its_end(
    operator: Client, webhook: Webhook, failed: list[Delivery]
) -> None:
    row = service.redeliver(Scope(webhook_id=webhook.pk))
    assert progress_context(row)["percent"] == 0
    run(row.pk)
    row.refresh_from_db()

    def after(**counts: int) -> dict[str, Any]:
        rest = list(Delivery.objects.filter(redelivery=row).order_by("id"))
        for status, number in counts.items():
            for delivery in rest[:number]:
                Delivery.objects.filter(pk=delivery.pk).update(status=status)
            rest = rest[number:]
        return progress_context(row)

    one = after(SUCCESS=1, FAILED=1)
    assert (one["percent"], one["is_over"], one["is_settled"]) == (50, False, False)
    assert one["parts"][:2] == [("good", 0.0, 25.0), ("bad", 25.0, 25.0)]
    settled = after(SUCCESS=3, RETRYING=1)
    assert (settled["percent"], settled["is_over"], settled["is_settled"]) == (75, False, True)
    done = after(SUCCESS=4)
    assert (done["percent"], done["is_over"]) == (100, True)
    page = operator.get(f"/admin/webhooks/redelivery/{row.pk}/progress/").content.decode()
    assert 'data-test="percent">100 %' in page
    assert "data-done" in page


def test_a_redelivery_says_what_was_asked_for(webhook: Webhook, failed: list[Delivery]) -> None:
    since = timezone.now() - timedelta(days=1)
    row = service.redeliver(
        Scope(webhook_id=webhook.pk, since=since, limit=3, statuses=("FAILED", "CANCELLED"))
    )

    text = describe(row, webhook_names([row]))

    assert text == (
        f"failed or cancelled deliveries, of webhook Orders, since {since:%Y-%m-%d %H:%M} UTC, "
        "at most 3"
    )


def test_a_redelivery_of_another_version_is_shown_all_the_same(
    operator: Client, webhook: Webhook
) -> None:
    row = Redelivery.objects.create(scope={"colour": "blue"}, status="failed", error="TypeError")

    for path in ("", f"{row.pk}/change/"):
        shown = operator.get(f"/admin/webhooks/redelivery/{path}").content.decode()
        assert "a scope in an unknown form" in shown


def test_too_many_selected_are_refused(operator: Client, failed: list[Delivery]) -> None:
    ids = ",".join([failed[0].public_id] * 1001)

    answer = operator.post(NEW, {"deliveries": ids})

    assert answer.status_code == 422
    assert not Redelivery.objects.exists()


def test_a_selection_may_hold_what_succeeded(operator: Client, failed: list[Delivery]) -> None:
    Delivery.objects.filter(pk=failed[0].pk).update(status=DeliveryStatus.SUCCESS)

    operator.post(NEW, {"deliveries": f"{failed[0].public_id},{failed[1].public_id}"})

    assert Redelivery.objects.get().matched_count == 2


def test_an_event_explains_where_it_went_and_why_not_elsewhere(
    operator: Client, make_webhook: Callable[..., Webhook], failed: list[Delivery]
) -> None:
    make_webhook(name="Other", events=["user.*"])

    page = operator.get(f"/admin/webhooks/event/{failed[0].event_id}/change/").content.decode()

    assert "does not select payment.failed" in page
    assert "its list of events selects payment.failed" in page


def test_an_ordered_webhook_is_warned_of_before_and_after(
    operator: Client, webhook: Webhook, failed: list[Delivery]
) -> None:
    warning = f"Not in order: {webhook.name} receives"
    (first, *_) = failed
    pages = {
        f"{NEW}?webhook={webhook.public_id}": (
            NEW,
            {"webhook": webhook.public_id, "status": "FAILED"},
        ),
        f"/admin/webhooks/delivery/{first.pk}/redeliver/": None,
        f"/admin/webhooks/webhook/{webhook.pk}/redeliver-failed/": None,
    }
    for page in pages:
        assert warning not in operator.get(page).text
    Webhook.objects.update(order="all")

    for page, posted in pages.items():
        assert warning in operator.get(page).text, page
        url, data = posted or (page, {})
        Delivery.objects.update(status="FAILED", finished_at=timezone.now(), next_attempt_at=None)
        answer = operator.post(url, data)
        assert answer.status_code == 302, answer.text
        assert warning in " ".join(str(m) for m in get_messages(answer.wsgi_request)), page
    for begun in Redelivery.objects.all():
        assert warning in operator.get(f"/admin/webhooks/redelivery/{begun.pk}/change/").text


def test_a_replay_to_an_ordered_webhook_says_that_it_is_not_in_order(
    operator: Client, make_webhook: Callable[..., Webhook], failed: list[Delivery]
) -> None:
    late = make_webhook(name="Ledger", ordered=True)
    page = f"/admin/webhooks/event/{failed[0].event_id}/replay/"

    asked = operator.get(page)
    answer = operator.post(page, {"webhooks": [str(late.pk)]})

    assert "Not in order: Ledger receives" in asked.text
    assert "Not in order: Ledger" in " ".join(str(m) for m in get_messages(answer.wsgi_request))
