"""Create, change and delete webhooks."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from django.conf import settings as django_settings
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import connection, transaction
from django.db.models import F, Field
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from webhooks.choices import Order
from webhooks.errors import EncryptionKeyError, WebhookLimitError, WebhookNotSendingError
from webhooks.models import SigningSecret, Webhook
from webhooks.models.owners import owner_key, owner_model
from webhooks.models.webhook import SETTING_NAMES
from webhooks.outbox.store import Owner
from webhooks.postgres.sql import database_now
from webhooks.registry.secrets import build_secret, set_ed25519
from webhooks.registry.switch import DELETED, UNPROVED, disable, enable, forget_failures
from webhooks.registry.warnings import log_warnings
from webhooks.wire.url_rules import is_same_server

CHANGEABLE = {*SETTING_NAMES, "active", "metadata"}
WARNED_OF = {"url", "events", "filter", "form", "data_fields", "version"}


def _read_ordered(settings: dict[str, Any], before: str = Order.NONE) -> None:
    """Turn `ordered`, which was a boolean before there was an order per object, into an order.

    True keeps the order that there is, and is "all" where there is none.
    """
    is_ordered = settings.pop("ordered", None)
    if is_ordered is None:
        return
    if not isinstance(is_ordered, bool):
        raise ValidationError({"ordered": "ordered is true or false; order names the order."})
    order = settings.setdefault(
        "order", (before if before != Order.NONE else Order.ALL) if is_ordered else Order.NONE
    )
    if is_ordered != (order != Order.NONE):
        raise ValidationError(
            {"ordered": f"ordered contradicts the order {order!r}: leave it out."}
        )


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

    With `ed25519`, requests are signed `v1a` as well; receivers verify with `webhook.public_keys`.
    `settings` are those of SETTINGS (webhooks/models/webhook.py), such as `filter` and `form`.
    `owner=None` with `is_platform=True` makes a platform webhook. Raises ValidationError with every
    invalid field, or WebhookLimitError, and then stores nothing; logs warnings_of().
    """
    _read_ordered(settings)
    webhook = Webhook(
        owner_id=owner_key(owner), name=name, url=url, events=list(events), **settings
    )
    secrets: list[SigningSecret] = []
    _validate(
        lambda: _check_policy(settings),
        lambda: setattr(webhook, "headers", dict(headers or {})),
        lambda: secrets.append(build_secret(webhook, secret)),
        webhook.full_clean,
    )
    _require_proof(webhook)
    _ask_for_proof(webhook)
    if not webhook.active:
        webhook.disabled_at = database_now()
    if ed25519:
        secrets.append(SigningSecret.build(webhook, scheme=SigningSecret.Scheme.ED25519))
    # Not by the database's clock: updated_at is by this one, and must not be earlier.
    webhook.created_at = timezone.now()
    with transaction.atomic():
        _make_room(webhook)
        webhook.save(force_insert=True)
        for each in secrets:
            each.save(force_insert=True)
    log_warnings(webhook)
    webhook._secret = secrets[0].value
    return webhook


def policy_problem(named: Mapping[str, Any]) -> str | None:
    """Return why the named retry settings exclude each other: a schedule has its own number."""
    if named.get("retry_schedule") is None or named.get("max_retries") is None:
        return None
    return (
        "Give either a schedule or max_retries: a schedule has one retry for each of its entries."
    )


def _check_policy(named: Mapping[str, Any]) -> None:
    if problem := policy_problem(named):
        raise ValidationError({"retry_schedule": problem})


def put_webhook(
    owner: Owner, uid: str, **settings: Any
) -> tuple[Webhook, dict[str, tuple[Any, Any]] | None]:
    """Create the owner's webhook with this uid, or change it to the given settings.

    For configuration that is kept elsewhere. Returns the webhook and the old and new value of each
    changed setting, or None instead of them for a new webhook. An omitted setting gets its default but
    for the version, which stays; omitted custom headers are removed; if nothing differs, nothing changes. Raises what
    create_webhook() and update_webhook() do.
    """
    settings = {"headers": {}, "metadata": {}, **settings}
    _read_ordered(settings)
    owner_id = owner_key(owner)
    with transaction.atomic():
        _lock_owner(owner_id)
        webhook = Webhook.objects.for_owner(owner_id).filter(uid=uid).first()
        if webhook is None:
            return create_webhook(owner, uid=uid, **settings), None
        # A version is left by its owner only.
        for name in (name for name in SETTING_NAMES if name != "version"):
            if name != "max_retries" or settings.get("retry_schedule") is None:
                field = cast("Field[Any, Any]", Webhook._meta.get_field(name))
                settings.setdefault(name, field.get_default())
        before = {name: _readable(webhook, name) for name in settings}
        changed = {
            name: value for name, value in settings.items() if not _is_same(before[name], value)
        }
        if changed:
            # A new URL needs them, though they may be the same.
            update_webhook(webhook, **{"headers": settings["headers"], **changed})
    return webhook, {name: (before[name], value) for name, value in changed.items()}


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two settings are equal; true and 1 are not, as in JSON."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _readable(webhook: Webhook, name: str) -> Any:
    try:
        return getattr(webhook, name)
    except EncryptionKeyError:
        return None


def _lock_owner(owner_id: Any) -> None:
    # This lock does not block producers' inserts.
    owner_model()._base_manager.select_for_update(no_key=True).get(pk=owner_id)


def _make_room(webhook: Webhook) -> None:
    """Raise WebhookLimitError if the owner already has the maximum number of webhooks."""
    if webhook.owner_id is None:
        return
    # Creations of one owner take turns.
    _lock_owner(webhook.owner_id)
    limit = django_settings.WEBHOOKS_MAX_PER_OWNER
    if Webhook.objects.for_owner(webhook.owner_id).count() >= limit:
        raise WebhookLimitError(
            f"You have {limit} webhooks, the maximum; delete one that is not needed."
        )


@sensitive_variables()
def update_webhook(
    webhook: Webhook,
    *,
    headers: Mapping[str, str] | None = None,
    ed25519: bool | None = None,
    **changes: Any,
) -> Webhook:
    """Change the named settings of a webhook and no others; returns the instance.

    `headers` replaces all custom headers; it is required if there are some and the URL moves to
    another server. `ed25519` turns `v1a` signatures on or off; a change of `active` is an enable()
    or a disable(). `ordered` may stand for `order` (CHANGELOG.md). Raises ValidationError with every invalid field, or WebhookNotSendingError for a
    webhook that is deleted, and then stores nothing.
    """
    _read_ordered(changes, webhook.order)
    if unknown := sorted(changes.keys() - CHANGEABLE):
        raise TypeError(f"A webhook's {', '.join(unknown)} cannot be changed this way.")
    for name, value in changes.items():
        setattr(webhook, name, value)
    steps: list[Callable[[], object]] = [lambda: _check_policy(changes), webhook.full_clean]
    if headers is not None:
        steps.append(lambda: setattr(webhook, "headers", dict(headers)))
        changes["headers_encrypted"] = webhook.headers_encrypted
    concerned = {*changes, "headers", NON_FIELD_ERRORS}
    if "events" in changes:
        concerned |= {"filter", "data_fields"}
    if "order" in changes:
        concerned.add("debounce_seconds")
    if not changes.keys().isdisjoint({"form", "version"}):
        concerned.add("data_fields")
    if not changes.keys().isdisjoint({"form", "order"}):
        concerned.add("batch_events")
    _validate(*steps, only=concerned)
    with transaction.atomic():
        has_moved = "url" in changes and _moves(webhook, webhook.url, may_keep=headers is not None)
        rows = Webhook.objects.filter(pk=webhook.pk, deleted_at=None)
        if not rows.update(revision=F("revision") + 1):
            raise WebhookNotSendingError(DELETED)
        webhook.save(update_fields=[*(changes.keys() - {"active"}), "updated_at"])
        if has_moved:
            webhook.verified = False
            webhook.save(update_fields=["verified", *_ask_for_proof(webhook)])
            forget_failures(webhook)
        if "active" in changes:
            _switch(webhook, webhook.active)
        if has_moved and _require_proof(webhook):
            _switch(webhook, False, webhook.disabled_reason)
        if ed25519 is not None:
            set_ed25519(webhook, ed25519)
    webhook.refresh_from_db(fields=["revision"])
    if not changes.keys().isdisjoint(WARNED_OF):
        log_warnings(webhook)
    return webhook


def _require_proof(webhook: Webhook) -> bool:
    """Disable an instance that needs a proof of its endpoint and has none; return whether it did."""
    is_missing = (
        django_settings.WEBHOOKS_ENDPOINT_PROOF == "require"
        and webhook.active
        and not webhook.verified
    )
    if is_missing:
        webhook.active, webhook.disabled_reason = False, UNPROVED
    return is_missing


def _ask_for_proof(webhook: Webhook) -> list[str]:
    """Make an instance's challenge due if the settings want proofs; return the fields it set."""
    is_wanted = django_settings.WEBHOOKS_ENDPOINT_PROOF != "off"
    webhook.proof_due_at = database_now() if is_wanted else None
    webhook.proof_failures, webhook.proof_error = 0, ""
    return ["proof_due_at", "proof_failures", "proof_error"]


def check_headers_stay(webhook: Webhook, url: str) -> None:
    """Raise ValidationError if a new URL would send the custom headers to another server.

    A person who may change the URL need not know the headers. In a transaction, locks the row.
    """
    _moves(webhook, url, may_keep=False)


def _moves(webhook: Webhook, url: str, *, may_keep: bool) -> bool:
    """Return whether a URL leads to another server than the stored one; see check_headers_stay()."""
    rows = Webhook.objects.filter(pk=webhook.pk)
    if connection.in_atomic_block:
        rows = rows.select_for_update(no_key=True)
    stored, headers = rows.values_list("url", "headers_encrypted").get()
    has_moved = not is_same_server(stored, url)
    if has_moved and headers is not None and not may_keep:
        raise ValidationError(
            {
                "headers": "The URL leads to another server: give the custom headers again, or none "
                "({}), so that their values are not sent to a server by mistake."
            }
        )
    return has_moved


def _switch(webhook: Webhook, is_on: bool, reason: str = "") -> None:
    """Enable or disable a webhook that the caller has locked, unless it is so already."""
    if is_on == Webhook.objects.values_list("active", flat=True).get(pk=webhook.pk):
        return
    if is_on:
        enable(webhook)
    else:
        disable(webhook, reason)


def _validate(*steps: Callable[[], object], only: Collection[str] | None = None) -> None:
    """Run all steps and raise one ValidationError with the problems of them all.

    With `only`, the error names no other fields: rules may have become stricter since they were set.
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


def delete_webhook(webhook: Webhook) -> bool:
    """Delete a webhook softly; the dispatcher cancels its pending deliveries.

    Returns False for one that is deleted already, which the instance need not know.
    """
    now = timezone.now()
    changes = {"active": False, "deleted_at": now, "updated_at": now}
    is_deleted_here = Webhook.objects.filter(pk=webhook.pk, deleted_at=None).update(**changes)
    webhook.refresh_from_db(fields=[*changes])
    return bool(is_deleted_here)
