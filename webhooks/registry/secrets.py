"""Make, rotate and revoke a webhook's signing secrets."""

from datetime import timedelta
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now
from django.views.decorators.debug import sensitive_variables

from webhooks.errors import SecretRefusedError
from webhooks.models import SigningSecret, Webhook
from webhooks.models.webhook import MAX_LIVE_SECRETS
from webhooks.registry.switch import DELETED

DEFAULT_OVERLAP = timedelta(hours=24)
MAX_OVERLAP = timedelta(days=7)


@sensitive_variables()
def rotate_secret(
    webhook: Webhook,
    *,
    overlap: timedelta = DEFAULT_OVERLAP,
    secret: str | None = None,
    scheme: str = SigningSecret.Scheme.HMAC,
) -> Webhook:
    """Give a webhook a new signing secret, readable as `webhook.secret` on this instance only.

    The old secret signs too for `overlap`, 0 to 7 days; after 0 it never signs again (invariant 12:
    within a second). Without `secret` a random one is made. `X-Webhook-Signature` has room for one
    signature: the new secret makes it at once. Scheme `v1a` replaces the ed25519 key, whose public
    half then comes first in `webhook.public_keys`.

    Raises ValidationError, and SecretRefusedError if ten secrets are live already, or for a webhook
    that is deleted.
    """
    if not timedelta(0) <= overlap <= MAX_OVERLAP:
        raise ValidationError({"overlap": f"The overlap is 0 to {MAX_OVERLAP.days} days."})
    with transaction.atomic():
        # Rotations of one webhook take turns.
        locked = Webhook.objects.select_for_update(no_key=True).get(pk=webhook.pk)
        if locked.deleted_at is not None:
            raise SecretRefusedError(DELETED)
        secrets = webhook.secrets.filter(scheme=scheme)
        secrets.filter(expires_at__lte=Now()).delete()
        values = {old.id: old.readable_value for old in secrets}
        if not values:
            raise SecretRefusedError(f"This webhook has no {scheme} secret to rotate.")
        # A secret that cannot be decrypted signs nothing, and stops its webhook's deliveries.
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
        fresh = build_secret(webhook, secret, scheme)
        fresh.save(force_insert=True)
    if scheme == SigningSecret.Scheme.HMAC:
        webhook._secret = fresh.value
    return webhook


def revoke_secret(webhook: Webhook, secret_id: UUID | None = None) -> int:
    """Delete one older secret, or all older ones, at once; return the number of deleted secrets.

    The current secret cannot be revoked, only replaced: rotate_secret() with an overlap of 0. Raises
    SecretRefusedError if `secret_id` is the current secret or none of this webhook's.
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


@sensitive_variables()
def build_secret(
    webhook: Webhook, value: str | None, scheme: str = SigningSecret.Scheme.HMAC
) -> SigningSecret:
    """Return an unsaved secret, random without `value`; raises ValidationError for a weak one."""
    try:
        return SigningSecret.build(webhook, value, scheme=SigningSecret.Scheme(scheme))
    except ValueError as problem:
        raise ValidationError({"secret": str(problem)}) from None


def set_ed25519(webhook: Webhook, is_on: bool) -> None:
    """Give a webhook an ed25519 key if it has none, or delete its ed25519 keys."""
    secrets = webhook.secrets.filter(scheme=SigningSecret.Scheme.ED25519)
    if not is_on:
        secrets.delete()
    elif not secrets.filter(expires_at=None).exists():
        SigningSecret.build(webhook, scheme=SigningSecret.Scheme.ED25519).save(force_insert=True)
