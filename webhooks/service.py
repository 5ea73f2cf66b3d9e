"""The public Python API: trigger events, manage webhooks, look at deliveries.

A caller's mistake raises at once; nothing here ever raises because of delivery.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from webhooks import catalog
from webhooks.errors import SecretRefusedError, WebhookLimitError
from webhooks.models import Delivery, SigningSecret, Webhook
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.webhook import MAX_LIVE_SECRETS, SETTING_NAMES
from webhooks.outbox.batch import trigger_each
from webhooks.outbox.explain import Considered, Explanation, explain
from webhooks.outbox.store import Owner, Trigger, trigger_event, trigger_events
from webhooks.registry.switch import (
    UNPROVED,
    cancel,
    disable,
    enable,
    pause_sending,
    resume_sending,
)
from webhooks.repair.redelivery import redeliver, redeliver_one, replay
from webhooks.repair.redelivery_scope import Scope
from webhooks.wire.url_rules import is_same_server, is_same_url
from webhooks.workbench.proof import Proof, prove
from webhooks.workbench.test_send import Tryout
from webhooks.workbench.test_send import send_test as test_webhook

logger = logging.getLogger(__name__)

__all__ = [
    "Considered",
    "Explanation",
    "Proof",
    "Scope",
    "Trigger",
    "Tryout",
    "cancel",
    "create_webhook",
    "delete_webhook",
    "disable",
    "enable",
    "explain",
    "get_deliveries",
    "get_webhooks",
    "pause_sending",
    "prove",
    "redeliver",
    "redeliver_one",
    "replay",
    "resume_sending",
    "revoke_secret",
    "rotate_secret",
    "test_webhook",
    "trigger_each",
    "trigger_event",
    "trigger_events",
    "update_webhook",
    "warnings_of",
]

CHANGEABLE = {*SETTING_NAMES, "active"}
WARNED_OF = {"url", "events"}
SHOWN_TWINS = 3
DEFAULT_OVERLAP = timedelta(hours=24)
MAX_OVERLAP = timedelta(days=7)


@sensitive_variables()
def create_webhook(
    owner: Owner,
    *,
    name: str,
    url: str,
    events: Sequence[str],
    headers: Mapping[str, str] | None = None,
    secret: str | None = None,
    ed25519: bool = False,
    **settings: Any,
) -> Webhook:
    """Register a webhook and return it; `webhook.secret` is readable on this instance only.

    With `ed25519` requests are signed `v1a` as well; receivers verify with `webhook.public_keys`.
    `owner=None` with `is_platform=True` makes a platform webhook. Raises ValidationError, naming
    every field that is wrong, or WebhookLimitError, and stores nothing then; logs warnings_of().
    """
    webhook = Webhook(
        owner_id=getattr(owner, "pk", owner), name=name, url=url, events=list(events), **settings
    )
    secrets: list[SigningSecret] = []
    _validate(
        lambda: _check_policy(settings),
        lambda: setattr(webhook, "headers", dict(headers or {})),
        lambda: secrets.append(_build_secret(webhook, secret)),
        webhook.full_clean,
    )
    _require_proof(webhook)
    if not webhook.active:
        webhook.disabled_at = timezone.now()
    if ed25519:
        secrets.append(SigningSecret.build(webhook, scheme=SigningSecret.Scheme.ED25519))
    with transaction.atomic():
        _make_room(webhook)
        webhook.save(force_insert=True)
        for one in secrets:
            one.save(force_insert=True)
    _log_warnings(webhook)
    webhook._secret = secrets[0].value
    return webhook


def _check_policy(named: Mapping[str, Any]) -> None:
    """A schedule says how often, too: who names both means something that will not happen."""
    if named.get("retry_schedule") is not None and named.get("max_retries") is not None:
        raise ValidationError(
            {
                "retry_schedule": "Give either a schedule or max_retries: a schedule has one retry for "
                "each of its entries."
            }
        )


def _make_room(webhook: Webhook) -> None:
    """Raise WebhookLimitError where the owner has as many webhooks as there may be."""
    if webhook.owner_id is None:
        return
    # Creations of one owner take turns; producers' inserts are not in the way of this lock.
    get_user_model().objects.select_for_update(no_key=True).get(pk=webhook.owner_id)
    limit = django_settings.WEBHOOKS_MAX_PER_OWNER
    if Webhook.objects.for_owner(webhook.owner_id).count() >= limit:
        raise WebhookLimitError(
            f"You have {limit} webhooks, as many as there may be; delete one that is not needed."
        )


@sensitive_variables()
def update_webhook(
    webhook: Webhook,
    *,
    headers: Mapping[str, str] | None = None,
    ed25519: bool | None = None,
    **changes: Any,
) -> Webhook:
    """Change a webhook's settings, those named and no others; returns the instance.

    `headers` replaces all custom headers, and has to be given where there are some and the URL
    changes to another server; `ed25519` turns `v1a` signatures on or off; a change of
    `active` is an enable() or a disable(). Raises ValidationError, naming every field that is
    wrong, and stores nothing then.
    """
    if unknown := sorted(changes.keys() - CHANGEABLE):
        raise TypeError(f"A webhook's {', '.join(unknown)} cannot be changed this way.")
    for name, value in changes.items():
        setattr(webhook, name, value)
    steps: list[Callable[[], object]] = [lambda: _check_policy(changes), webhook.full_clean]
    if headers is not None:
        steps.append(lambda: setattr(webhook, "headers", dict(headers)))
        changes["headers_encrypted"] = webhook.headers_encrypted
    _validate(*steps, only={*changes, "headers", NON_FIELD_ERRORS})
    with transaction.atomic():
        has_moved = "url" in changes and _moves(webhook, webhook.url, may_keep=headers is not None)
        Webhook.objects.filter(pk=webhook.pk).update(revision=F("revision") + 1)
        webhook.save(update_fields=[*(changes.keys() - {"active"}), "updated_at"])
        if has_moved and webhook.verified:
            webhook.verified = False
            webhook.save(update_fields=["verified"])
        if "active" in changes:
            _switch(webhook, webhook.active)
        if has_moved and _require_proof(webhook):
            disable(webhook, webhook.disabled_reason)
        if ed25519 is not None:
            _set_ed25519(webhook, ed25519)
    webhook.refresh_from_db(fields=["revision"])
    if not changes.keys().isdisjoint(WARNED_OF):
        _log_warnings(webhook)
    return webhook


def _require_proof(webhook: Webhook) -> bool:
    """Switch an instance off where it needs a proof of its endpoint and has none."""
    is_missing = (
        django_settings.WEBHOOKS_ENDPOINT_PROOF == "require"
        and webhook.active
        and not webhook.verified
    )
    if is_missing:
        webhook.active, webhook.disabled_reason = False, UNPROVED
    return is_missing


def check_headers_stay(webhook: Webhook, url: str) -> None:
    """Raise ValidationError where a new URL would hand custom headers to a server that does not
    have them: whoever may change the URL need not know them. Locks the row in a transaction.
    """
    _moves(webhook, url, may_keep=False)


def _moves(webhook: Webhook, url: str, *, may_keep: bool) -> bool:
    """Say whether a URL is another server's than the stored one; see check_headers_stay()."""
    rows = Webhook.objects.filter(pk=webhook.pk)
    if connection.in_atomic_block:
        rows = rows.select_for_update(no_key=True)
    stored, headers = rows.values_list("url", "headers_encrypted").get()
    has_moved = not is_same_server(stored, url)
    if has_moved and headers is not None and not may_keep:
        raise ValidationError(
            {
                "headers": "The URL leads to another server: give the custom headers again, or none "
                "({}), so that their values do not go where nobody meant them to."
            }
        )
    return has_moved


def warnings_of(webhook: Webhook) -> list[str]:
    """Return what is allowed but hardly meant of a webhook, a sentence each.

    That is: no proof of its endpoint, and the owner's other webhooks with the same URL that receive
    some of the same events. One statement.
    """
    return [*_unproved(webhook), *_twins_of(webhook)]


def _unproved(webhook: Webhook) -> list[str]:
    is_asked = django_settings.WEBHOOKS_ENDPOINT_PROOF != "off" and not webhook.verified
    return [UNPROVED] if is_asked else []


def _twins_of(webhook: Webhook) -> list[str]:
    others = Webhook.objects.for_owner(webhook.owner_id).exclude(pk=webhook.pk).order_by("-id")
    twins = [
        f"{other.name} ({other.public_id})"
        for other in others.only("name", "url", "events")
        if is_same_url(other.url, webhook.url) and _share_types(other, webhook)
    ]
    if not twins:
        return []
    more = f" and {len(twins) - SHOWN_TWINS} more" if len(twins) > SHOWN_TWINS else ""
    return [
        f"Other webhooks have the same URL and receive some of the same events: "
        f"{', '.join(twins[:SHOWN_TWINS])}{more}. Each of them sends such an event with the same "
        "webhook-id, so a receiver that drops repeated ids handles only the first."
    ]


def _share_types(one: Webhook, other: Webhook) -> bool:
    names = (event_type.name for event_type in catalog.all_types())
    return any(one.receives(name) and other.receives(name) for name in names)


def _log_warnings(webhook: Webhook) -> None:
    for warning in _twins_of(webhook):
        logger.warning("Webhook %s: %s", webhook.public_id, warning)


def _switch(webhook: Webhook, is_on: bool) -> None:
    """Enable or disable a webhook, locked by the caller, where it is not so already."""
    if is_on == Webhook.objects.values_list("active", flat=True).get(pk=webhook.pk):
        return
    if is_on:
        enable(webhook)
    else:
        disable(webhook)


@sensitive_variables()
def rotate_secret(
    webhook: Webhook,
    *,
    overlap: timedelta = DEFAULT_OVERLAP,
    secret: str | None = None,
    scheme: str = SigningSecret.Scheme.HMAC,
) -> Webhook:
    """Give a webhook a new signing secret, readable as `webhook.secret` on this instance only.

    The old one signs too for `overlap`, 0 to 7 days; after 0 it never signs again (invariant 12:
    within a second). `secret` is generated where it is not given. `X-Webhook-Signature` has room
    for one signature and is made with the new secret at once. With scheme `v1a` the ed25519 key is
    replaced, whose public half stands first in `webhook.public_keys`.

    Raises ValidationError, and SecretRefusedError when ten secrets are live already.
    """
    if not timedelta(0) <= overlap <= MAX_OVERLAP:
        raise ValidationError({"overlap": f"The overlap is 0 to {MAX_OVERLAP.days} days."})
    with transaction.atomic():
        # Rotations of one webhook take turns.
        Webhook.objects.select_for_update(no_key=True).get(pk=webhook.pk)
        secrets = webhook.secrets.filter(scheme=scheme)
        secrets.filter(expires_at__lte=Now()).delete()
        values = {old.id: old.readable_value for old in secrets}
        if not values:
            raise SecretRefusedError(f"This webhook has no {scheme} secret to rotate.")
        # What cannot be decrypted signs nothing, and keeps the webhook from being sent to.
        secrets.filter(id__in=[id_ for id_, value in values.items() if value is None]).delete()
        live = set(values.values()) - {None}
        if secret in live:
            raise ValidationError({"secret": "This webhook uses this secret already."})
        if overlap and len(live) >= MAX_LIVE_SECRETS:
            raise SecretRefusedError(
                f"This webhook has {MAX_LIVE_SECRETS} live secrets already; revoke older ones."
            )
        current = secrets.filter(expires_at=None)
        if overlap:
            current.update(expires_at=Now() + overlap)
        else:
            current.delete()
        fresh = _build_secret(webhook, secret, scheme)
        fresh.save(force_insert=True)
    if scheme == SigningSecret.Scheme.HMAC:
        webhook._secret = fresh.value
    return webhook


def revoke_secret(webhook: Webhook, secret_id: UUID | None = None) -> int:
    """Take older secrets out of use at once: one of them, or all; returns how many there were.

    The current secret is not revoked but replaced: rotate_secret() with an overlap of 0. Raises
    SecretRefusedError when `secret_id` is the current one or none of this webhook's.
    """
    older = webhook.secrets.exclude(expires_at=None)
    if secret_id is not None:
        if webhook.secrets.filter(id=secret_id, expires_at=None).exists():
            raise SecretRefusedError(
                "The current secret cannot be revoked; rotate it with an overlap of 0."
            )
        older = older.filter(id=secret_id)
    count, _ = older.delete()
    if secret_id is not None and not count:
        raise SecretRefusedError("This webhook has no such secret.")
    return count


def _validate(*steps: Callable[[], object], only: Collection[str] | None = None) -> None:
    """Run all steps and raise one ValidationError with the problems of them all.

    With `only`, other fields are not spoken of: rules may have become stricter since they were set.
    """
    problems: dict[str, Any] = {}
    for step in steps:
        try:
            step()
        except ValidationError as problem:
            problems = problem.update_error_dict(problems)
    if only is not None:
        problems = {field: errors for field, errors in problems.items() if field in only}
    if problems:
        raise ValidationError(problems)


@sensitive_variables()
def _build_secret(
    webhook: Webhook, value: str | None, scheme: str = SigningSecret.Scheme.HMAC
) -> SigningSecret:
    try:
        return SigningSecret.build(webhook, value, scheme=SigningSecret.Scheme(scheme))
    except ValueError as problem:
        raise ValidationError({"secret": str(problem)}) from None


def _set_ed25519(webhook: Webhook, is_on: bool) -> None:
    secrets = webhook.secrets.filter(scheme=SigningSecret.Scheme.ED25519)
    if not is_on:
        secrets.delete()
    elif not secrets.filter(expires_at=None).exists():
        SigningSecret.build(webhook, scheme=SigningSecret.Scheme.ED25519).save(force_insert=True)


def get_webhooks(owner: Owner) -> Any:
    """Return the owner's webhooks, newest first."""
    return Webhook.objects.for_owner(getattr(owner, "pk", owner)).order_by("-id")


def delete_webhook(webhook: Webhook) -> None:
    """Delete a webhook softly; the dispatcher cancels what is waiting for it."""
    webhook.active = False
    webhook.deleted_at = timezone.now()
    webhook.save(update_fields=["active", "deleted_at", "updated_at"])


def get_deliveries(
    webhook: Webhook, owner: Owner, *, status: str | None = None
) -> DeliveryQuerySet:
    """Return a webhook's deliveries, newest first; none where the webhook is not the owner's."""
    deliveries = Delivery.objects.filter(
        webhook=webhook, webhook__owner_id=getattr(owner, "pk", owner)
    ).select_related("event")
    if status is not None:
        deliveries = deliveries.filter(status=status)
    return deliveries.order_by("-id")
