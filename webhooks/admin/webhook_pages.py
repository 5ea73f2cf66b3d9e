"""The contexts of the pages of one webhook."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib.auth import get_user_model
from django.db import OperationalError, transaction

from webhooks.admin.base import LIST_SECONDS
from webhooks.admin.webhook_form import AdminFilterField
from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.doors import access, owners
from webhooks.errors import FilterInvalidError
from webhooks.figures import charts, present
from webhooks.figures.display import health_strip, state_of
from webhooks.figures.history import Selection, failures, series, totals
from webhooks.models import Delivery, SigningSecret, Webhook
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.outbox.filtering import preview_filter
from webhooks.postgres.sql import limit_statements, took_too_long
from webhooks.registry.warnings import unproved
from webhooks.repair import audit_log
from webhooks.repair.missed import count_missed
from webhooks.repair.redelivery_scope import Scope, matching
from webhooks.workbench import verification

DAY = timedelta(hours=24)
PAGE = 50
UNREADABLE = "cannot be decrypted with any key of this installation"


def overview(webhook: Webhook, now: datetime) -> dict[str, Any]:
    """Return its state, its last error, and the figures of the last 24 hours."""
    selection = Selection(since=now - DAY, webhook_ids=(webhook.pk,))
    buckets = series(selection)
    return {
        "state": state_of(webhook, now),
        "is_stopped": webhook.active and webhook.breaker_state != BreakerState.CLOSED,
        "missed": count_missed(webhook),
        "figures": totals(selection),
        "backlog": present.backlog(webhook_ids=(webhook.pk,)),
        "full_window": present.full_window(webhook.pk),
        "strip": health_strip(buckets, now),
        "chart": charts.outcomes(buckets),
        "outcomes_legend": charts.OUTCOMES_LEGEND,
        "failures": failures(selection),
        "last_failed": _last_failed(webhook),
        "failed_count": count_failed(webhook),
        "counted_at_most": COUNTED_AT_MOST,
        "recent": Delivery.objects.filter(webhook=webhook).with_waits().order_by("-id")[:8],
        "header_names": webhook.header_names,
        "unproved": unproved(webhook),
    }


def _last_failed(webhook: Webhook) -> Delivery | None:
    """Return the latest recent delivery whose last attempt failed, or None."""
    recent = Delivery.objects.filter(webhook=webhook).order_by("-id")[:200]
    return next((one for one in recent if one.failure_kind), None)


def count_failed(webhook: Webhook) -> int:
    """Return the number of deliveries to redeliver, at most COUNTED_AT_MOST + 1."""
    if webhook.deleted_at is not None:
        return 0
    return matching(Scope(webhook_id=webhook.pk))[: COUNTED_AT_MOST + 1].count()


def deliveries(webhook: Webhook, query: Mapping[str, str]) -> dict[str, Any]:
    """Return a page of its deliveries, newest first, older than a delivery's id."""
    found = Delivery.objects.filter(webhook=webhook).with_waits().order_by("-id")
    status = query.get("status", "")
    if status in DeliveryStatus.values:
        found = found.filter(status=status)
    before = _uuid(query.get("before", ""))
    if before is not None:
        found = found.filter(id__lt=before)
    page = list(found[: PAGE + 1])
    return {
        "deliveries": page[:PAGE],
        "older": page[PAGE - 1].id if len(page) > PAGE else None,
        "is_first": before is None,
        "status": status,
        "statuses": DeliveryStatus.choices,
    }


def secrets(webhook: Webhook, now: datetime) -> dict[str, Any]:
    """Return its live secrets, masked, and its public keys."""
    live: list[dict[str, Any]] = [
        {"secret": secret, "mask": verification.mask(secret) or UNREADABLE}
        for secret in webhook.secrets.live(now)
        if secret.scheme == SigningSecret.Scheme.HMAC
    ]
    return {
        "secrets": live,
        "older_count": sum(one["secret"].expires_at is not None for one in live),
        "public_keys": webhook.public_keys,
    }


def verify(webhook: Webhook) -> dict[str, Any]:
    """Return the documented, tested snippets that verify a signature."""
    return {"snippets": verification.snippets(), "public_keys": webhook.public_keys}


class PreviewForm(forms.Form):
    filter = AdminFilterField(required=False, label="Try a filter")


def filter_preview(webhook: Webhook, query: Mapping[str, str], user: Any) -> dict[str, Any]:
    """What its filter, or another one to try, makes of the latest events.

    Nothing for who may not read payloads: a filter that is tried tells of them.
    """
    if not user.has_perm(access.VIEW_PAYLOAD):
        return {}
    form = PreviewForm(query if "filter" in query else None, initial={"filter": webhook.filter})
    context: dict[str, Any] = {"form": form, "preview": None}
    if form.is_bound and not form.is_valid():
        return context
    try:
        with transaction.atomic():
            limit_statements(LIST_SECONDS)
            wanted = form.cleaned_data["filter"] if form.is_bound else None
            context["preview"] = preview_filter(webhook, wanted)
            limit_statements(0)
    except FilterInvalidError as problem:
        form.add_error("filter", str(problem))
    except OperationalError as problem:
        if not took_too_long(problem):
            raise
        context["took_too_long"] = True
    return context


def history(webhook: Webhook) -> dict[str, Any]:
    """Return the audit entries of a webhook."""
    entries = list(audit_log.history(webhook)[:200])
    name_actors(entries)
    return {"entries": entries}


def name_actors(entries: Iterable[Any]) -> None:
    """Set `who` on audit entries. One statement."""
    ids = {entry.actor_id for entry in entries} - {None}
    users: dict[Any, Any] = get_user_model().objects.in_bulk(list(ids))
    for entry in entries:
        user = users.get(entry.actor_id)
        entry.who = (
            "the system" if entry.actor_id is None
            else owners.name_of(user) if user else entry.actor_id
        )  # fmt: skip


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
