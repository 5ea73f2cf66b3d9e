"""A setting of a webhook is spelled once: its field, and its name in SETTINGS."""

from webhooks.admin.webhook_form import WebhookForm
from webhooks.admin.webhooks import WebhookAdmin
from webhooks.api.names import camel_case
from webhooks.api.webhook_serializers import WebhookSerializer
from webhooks.models import Webhook
from webhooks.models.webhook import SETTING_NAMES, api_name
from webhooks.registry.changes import CHANGEABLE

STATE = {
    "id", "owner", "uid", "metadata", "is_platform", "active", "headers_encrypted", "disabled_reason", "disabled_at",
    "notice_due_at", "notice_failures", "notice_error", "proof_due_at", "proof_failures", "proof_error", "failing_since", "breaker_state",
    "breaker_failures", "breaker_probes", "breaker_changed_at", "breaker_probe_at", "held_until",
    "rate_ready_at", "filter_path", "form_key", "pinned_key", "ordered", "verified", "deleted_at", "revision",
    "created_at", "updated_at",
}  # fmt: skip
"""Columns that the system writes, or that have an operation of their own."""


def test_every_column_is_a_setting_or_state() -> None:
    assert {field.name for field in Webhook._meta.fields} == STATE | set(SETTING_NAMES)


def test_every_door_offers_every_setting() -> None:
    in_admin = {name for _, options in WebhookAdmin.fieldsets or () for name in options["fields"]}

    assert set(SETTING_NAMES) | {"active", "metadata"} == CHANGEABLE
    in_api = {camel_case(api_name(name)) for name in SETTING_NAMES}
    assert in_api <= set(WebhookSerializer().fields)
    assert set(SETTING_NAMES) <= set(WebhookForm.base_fields)
    assert set(SETTING_NAMES) <= in_admin


def test_limits_and_defaults_of_the_api_are_those_of_the_columns() -> None:
    timeout = WebhookSerializer().fields["timeout"]

    assert (timeout.min_value, timeout.max_value, timeout.default) == (1, 30, 15)  # type: ignore[attr-defined]
