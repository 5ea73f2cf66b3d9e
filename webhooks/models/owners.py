"""The model whose rows own webhooks and events: WEBHOOKS_OWNER_MODEL, or the user model."""

from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import connection
from django.db.models import BooleanField, Model

from webhooks.postgres.sql import query

ACTIVE = "is_active"
"""The column by which an owner's webhooks stop; a model without it has active owners only."""


def owner_model() -> Any:
    """Return the model; callable once the models are loaded.

    Raises ImproperlyConfigured where WEBHOOKS_OWNER_MODEL names none.
    """
    try:
        return apps.get_model(settings.WEBHOOKS_OWNER_MODEL, require_ready=False)
    except (LookupError, ValueError) as problem:
        raise ImproperlyConfigured(
            f"WEBHOOKS_OWNER_MODEL is {settings.WEBHOOKS_OWNER_MODEL!r}, and must be the name of an "
            f'installed model, "app.Model": {problem}'
        ) from None


def owners_are_users() -> bool:
    """Return whether the users themselves own webhooks, rather than teams or tenants."""
    return apps.get_model(settings.AUTH_USER_MODEL, require_ready=False) is owner_model()


def has_active_column() -> bool:
    try:
        return isinstance(owner_model()._meta.get_field(ACTIVE), BooleanField)
    except FieldDoesNotExist:
        return False


def is_owner_active(owner: Any) -> bool:
    """Return whether webhooks of an owner send; True without an owner."""
    return owner is None or not has_active_column() or bool(getattr(owner, ACTIVE))


def is_held(key: Any) -> bool:
    """Return whether another deployment serves the owner of a key at present."""
    held = settings.WEBHOOKS_OWNER_HELD
    return held is not None and bool(query(f"SELECT {held.format(owner='%s')}", [key])[0][0])


def is_owner_served(owner: Any) -> bool:
    """Return whether an owner is active, and not held; True without an owner."""
    return owner is None or (is_owner_active(owner) and not is_held(owner.pk))


def owner_key(owner: Any) -> Any:
    """Return the key of an owner, given the row or the key; None for None.

    Raises ValueError for a row of another model: its key would name a stranger.
    """
    if isinstance(owner, Model) and not isinstance(owner, owner_model()):
        raise ValueError(
            f"The owner is a {owner._meta.label}, and WEBHOOKS_OWNER_MODEL is "
            f"{owner_model()._meta.label}."
        )
    return getattr(owner, "pk", owner)


def owner_sql() -> dict[str, str]:
    """Return SQL of the owners' table: `owners`, its column `key`, `is_inactive` of a row `u`."""
    meta, quote = owner_model()._meta, connection.ops.quote_name
    key = quote(meta.pk.column)
    reasons = [f"NOT u.{quote(meta.get_field(ACTIVE).column)}"] if has_active_column() else []
    if settings.WEBHOOKS_OWNER_HELD is not None:
        reasons.append(settings.WEBHOOKS_OWNER_HELD.format(owner=f"u.{key}"))
    return {
        "owners": quote(meta.db_table),
        "key": key,
        "is_inactive": f"({' OR '.join(reasons) or 'false'})",
    }
