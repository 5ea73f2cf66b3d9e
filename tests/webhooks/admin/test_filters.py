"""The filter of a webhook in the admin."""

import json
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from projects.models import User
from tests.webhooks.admin.conftest import PAYMENT
from tests.webhooks.versions import SECOND, parcels
from webhooks import service
from webhooks.doors import access
from webhooks.models import Webhook

SETTINGS = {
    "name": "Orders", "events": "payment.*", "timeout_seconds": 5, "max_retries": 3,
    "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000, "batch_milliseconds": 0, "retry_delay_seconds": 60,
}  # fmt: skip


def page_of(webhook: Webhook, page: str) -> str:
    return reverse(f"admin:webhooks_webhook_{page}", args=[webhook.pk])


def test_a_filter_is_set_and_refused_in_the_settings(operator: Client, webhook: Webhook) -> None:
    settings = SETTINGS | {"url": webhook.url}
    path = page_of(webhook, "settings")

    texts = ["{", "[" * 4000, "x" * 5000, '{"amuont": 5}', '{"amount": {"gte": NaN}}']
    refused = [operator.post(path, settings | {"filter": text}) for text in texts]
    operator.post(path, settings | {"filter": '{"amount": {"gte": 3000}}'})

    assert [answer.status_code for answer in refused] == [200] * 5
    pages = [answer.content.decode() for answer in refused]
    words = ["not JSON", "not JSON", "at most 4,096 bytes", "has no such field", "written as JSON"]
    assert [word in page for word, page in zip(words, pages, strict=True)] == [True] * 5
    webhook.refresh_from_db()
    assert webhook.filter == {"amount": {"gte": 3000}}


@pytest.mark.parametrize("text", [r'{"id": "\ud800"}', r'{"\ud800": 1}', "9" * 4301])
def test_a_filter_that_cannot_be_stored_is_refused(
    operator: Client, webhook: Webhook, text: str
) -> None:
    saved = operator.post(
        page_of(webhook, "settings"), SETTINGS | {"url": webhook.url, "filter": text}
    )
    tried = operator.get(page_of(webhook, "filter"), {"filter": text})

    assert set(saved.context["adminform"].form.errors) == {"filter"}
    assert (tried.status_code, set(tried.context["form"].errors)) == (200, {"filter"})


def test_fields_are_chosen_in_the_settings_and_shown(operator: Client, webhook: Webhook) -> None:
    settings = SETTINGS | {"url": webhook.url, "form": "fields"}
    path = page_of(webhook, "settings")

    unknown = operator.post(path, settings | {"data_fields": "id, amuont"})
    many = operator.post(path, settings | {"data_fields": "id," * 60})
    operator.post(path, settings | {"data_fields": "id, amount"})

    assert "amuont: payment.failed" in unknown.content.decode()
    assert "50 are allowed" in many.content.decode()
    webhook.refresh_from_db()
    assert (webhook.form, webhook.data_fields) == ("fields", ["id", "amount"])
    assert "data: id, amount" in operator.get(page_of(webhook, "change")).content.decode()


def test_a_version_and_debounce_are_set_in_the_settings_and_shown(
    operator: Client, webhook: Webhook
) -> None:
    settings = SETTINGS | {"url": webhook.url, "events": "*"}
    path = page_of(webhook, "settings")

    with parcels():
        page = operator.get(path).content.decode()
        operator.post(path, settings | {"version": "2026-06-01", "debounce_seconds": "30"})
        webhook.refresh_from_db()
        chosen = webhook.version
        operator.post(path, settings | {"debounce_seconds": "30", "ordered": "on"})
        unknown = operator.post(path, settings | {"version": "2026-06-02"})

    assert '<option value="2026-06-01"' in page
    assert "not one of the available choices" in unknown.content.decode()
    webhook.refresh_from_db()
    assert (chosen, webhook.version, webhook.debounce_seconds) == (SECOND, SECOND, 30)
    assert not webhook.ordered
    overview = operator.get(page_of(webhook, "change")).content.decode()
    assert "<dd>2026-06-01</dd>" in overview
    assert "updates of an object wait 30 s" in overview


def test_a_filter_is_tried_on_the_latest_events(
    operator: Client, user: User, webhook: Webhook
) -> None:
    service.update_webhook(webhook, filter={"amount": {"gte": 3000}})
    service.trigger_event("payment.failed", user, PAYMENT)
    path = page_of(webhook, "filter")

    own = operator.get(path).content.decode()
    other = operator.get(path, {"filter": json.dumps({"amount": 2900})}).content.decode()
    wrong = operator.get(path, {"filter": '{"amuont": 5}'}).content.decode()
    broken = operator.get(path, {"filter": "{"}).content.decode()

    assert "amount is 2900" in own
    assert "lets <b>1</b> through" in other
    assert "has no such field" in wrong
    assert "not JSON" in broken
    webhook.refresh_from_db()
    assert webhook.filter == {"amount": {"gte": 3000}}


def test_whoever_may_not_read_payloads_learns_nothing_of_them_by_filters(
    staff: Callable[..., Client], user: User, webhook: Webhook
) -> None:
    service.update_webhook(webhook, filter={"amount": {"gte": 3000}})
    event = service.trigger_event("payment.failed", user, PAYMENT)
    client = staff(*access.CHANGE_WEBHOOK.permissions, "webhooks.view_event")

    tried = client.get(page_of(webhook, "filter"), {"filter": '{"amount": 2900}'}).content.decode()
    shown = client.get(reverse("admin:webhooks_event_change", args=[event.pk])).content.decode()

    assert "You may not read payloads" in tried
    assert "through" not in tried
    assert "It is filtered by amount." in shown
    assert "2900" not in shown
