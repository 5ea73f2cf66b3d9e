"""System checks E101 to E109 and W101 to W105: keys, the host project, settings of security."""

import secrets
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, InterfaceError, connection
from django.template import engines
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string

from webhooks.models.owner_keys import SQL_TYPE
from webhooks.models.owners import (
    ACTIVE,
    has_active_column,
    owner_model,
    owners_are_users,
)
from webhooks.repair import reencryption
from webhooks.wire.addresses import is_public_network

KEY_BYTES = 32
LIBRARIES = {
    "operator": "webhooks.admin.template_tags",
    "portal": "webhooks.portal.template_tags",
}
"""Libraries of template tags, by the names that the templates load them by."""
SECOND_FACTOR_APPS = (
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
)


@register("webhooks")
def check_encryption_keys(**_: Any) -> list[CheckMessage]:
    """E101: some secrets or headers cannot be decrypted, so their webhooks receive nothing.

    Reports nothing if the database is unavailable.
    """
    was_open = connection.connection is not None
    try:
        unreadable = reencryption.count_unreadable()
    except (DatabaseError, InterfaceError):
        return []
    finally:
        # A worker pool forks after the checks, and its children must not share a connection.
        if not was_open:
            connection.close()
    if not unreadable:
        return []
    return [
        Error(
            f"{unreadable} stored secrets or headers are encrypted with a key that is not in "
            "WEBHOOKS_ENCRYPTION_KEYS; their webhooks receive nothing.",
            hint="Add the old key after the new one, run `manage.py reencrypt`, then remove the old key.",
            id="webhooks.E101",
        )
    ]


@register("webhooks")
def check_keys_are_set(**_: Any) -> list[CheckMessage]:
    """E106: there is no key, or one that is no 32 bytes, so no webhook can be created."""
    keys = settings.WEBHOOKS_ENCRYPTION_KEYS
    problem = "is empty: no webhook can be created" if not keys else ""
    if not all(isinstance(key, bytes) and len(key) == KEY_BYTES for key in keys):
        problem = f"holds a key that is no {KEY_BYTES} bytes"
    if not problem:
        return []
    return [
        Error(
            f"WEBHOOKS_ENCRYPTION_KEYS {problem}.",
            hint="Keep a key as secret as SECRET_KEY, in the settings or where they read it from. This "
            "one is new: WEBHOOKS_ENCRYPTION_KEYS = "
            f'[bytes.fromhex("{secrets.token_hex(KEY_BYTES)}")]',
            id="webhooks.E106",
        )
    ]


@register("webhooks")
def check_postgres(**_: Any) -> list[CheckMessage]:
    """E107: the default database is no Postgres."""
    if connection.vendor == "postgresql":
        return []
    return [
        Error(
            f"The default database is {connection.display_name}; webhooks need Postgres 15 or newer.",
            hint='Set DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", '
            '"NAME": "the name of a database"}}',
            id="webhooks.E107",
        )
    ]


@register("webhooks")
def check_time_zone(**_: Any) -> list[CheckMessage]:
    """E109: times are read without a zone, and ours all have one."""
    if settings.USE_TZ:
        return []
    return [
        Error(
            "USE_TZ is False: Django reads times without a zone, so that `doctor` and the purge fail.",
            hint="Set USE_TZ = True.",
            id="webhooks.E109",
        )
    ]


@register("webhooks")
def check_template_libraries(**_: Any) -> list[CheckMessage]:
    """W105: the admin or the portal is there, and its templates find no tags of this app."""
    pages = ["the operators' screens in the admin"] * apps.is_installed("django.contrib.admin")
    pages += ["the portal"] * _has_portal()
    known = [getattr(engine, "engine", None) for engine in engines.all()]
    has_tags = any(engine and LIBRARIES.items() <= engine.libraries.items() for engine in known)
    if has_tags or not pages:
        return []
    return [
        Warning(
            f"Template tags are missing, without which pages answer with errors: {', '.join(pages)}.",
            hint="Add to the settings, after TEMPLATES: "
            f'TEMPLATES[0]["OPTIONS"]["libraries"] = {LIBRARIES}',
            id="webhooks.W105",
        )
    ]


def _has_portal() -> bool:
    # A project without a site has no ROOT_URLCONF.
    try:
        return bool(getattr(settings, "ROOT_URLCONF", None) and reverse("portal-login"))
    except NoReverseMatch:
        return False


@register("webhooks")
def check_proxy(**_: Any) -> list[CheckMessage]:
    """W101: with an egress proxy, the worker does not check receivers' addresses at send time."""
    if not settings.WEBHOOKS_PROXY_URL:
        return []
    return [
        Warning(
            "WEBHOOKS_PROXY_URL is set: the proxy decides which addresses webhooks may reach; "
            "addresses are checked only when a URL is saved.",
            hint="Use a proxy that refuses private addresses, such as smokescreen, then add "
            "webhooks.W101 to SILENCED_SYSTEM_CHECKS.",
            id="webhooks.W101",
        )
    ]


@register(Tags.security, deploy=True)
def check_allowed_networks(**_: Any) -> list[CheckMessage]:
    """W102: WEBHOOKS_ALLOWED_NETWORKS holds networks that are not public."""
    opened = [
        str(network)
        for network in settings.WEBHOOKS_ALLOWED_NETWORKS
        if not is_public_network(network)
    ]
    if not opened:
        return []
    return [
        Warning(
            f"WEBHOOKS_ALLOWED_NETWORKS lets users send requests into {', '.join(opened)}.",
            hint="Remove networks that are not meant for webhooks; the demo and tests allow only loopback.",
            id="webhooks.W102",
        )
    ]


@register(Tags.security, deploy=True)
def check_https_is_required(**_: Any) -> list[CheckMessage]:
    """W103: webhooks may use http:// URLs."""
    if settings.WEBHOOKS_REQUIRE_HTTPS:
        return []
    return [
        Warning(
            "Webhooks may use http:// URLs: payloads and custom headers are sent unencrypted.",
            hint="Set WEBHOOKS_REQUIRE_HTTPS=1.",
            id="webhooks.W103",
        )
    ]


@register("webhooks")
def check_second_factor(**_: Any) -> list[CheckMessage]:
    """E108: a second factor is required, and no account can have one."""
    missing = [name for name in SECOND_FACTOR_APPS if not apps.is_installed(name)]
    if settings.WEBHOOKS_SECOND_FACTOR != "required" or not missing:
        return []
    return [
        Error(
            "WEBHOOKS_SECOND_FACTOR is required, and the apps of django-otp are missing, so that staff "
            "cannot see any secret.",
            hint="pip install remotedevai-webhooks[second-factor], and add "
            f"{', '.join(SECOND_FACTOR_APPS)} to INSTALLED_APPS.",
            id="webhooks.E108",
        )
    ]


@register("webhooks")
def check_owner_key(**_: Any) -> list[CheckMessage]:
    """E102: the owner model's primary key has another type than WEBHOOKS_OWNER_KEY."""
    model = owner_model()
    kind = model._meta.pk.rel_db_type(connection) or ""
    fitting = {"integer": "bigint", "smallint": "bigint"}.get(kind, kind)
    if kind.startswith("varchar"):
        fitting = "text"
    if fitting == SQL_TYPE:
        return []
    return [
        Error(
            f"The primary key of {model._meta.label} is of the type {kind}, and "
            f"WEBHOOKS_OWNER_KEY is {SQL_TYPE!r}.",
            hint=f"Set WEBHOOKS_OWNER_KEY = {fitting!r} before the first migrate; it is one of "
            "uuid, bigint and text.",
            id="webhooks.E102",
        )
    ]


@register("webhooks")
def check_active_owners(**_: Any) -> list[CheckMessage]:
    """E103: the owner model's `is_active` is no boolean column, so workers cannot read it."""
    model = owner_model()
    # True is that of Django's AbstractBaseUser: all users are active.
    if has_active_column() or getattr(model, ACTIVE, True) is True:
        return []
    return [
        Error(
            f"{model._meta.label}.{ACTIVE} is no boolean column.",
            hint=f"Make it {ACTIVE} = models.BooleanField(default=True): nothing is sent for "
            "inactive owners, and workers look at the column.",
            id="webhooks.E103",
        )
    ]


@register("webhooks")
def check_owner_of_request(**_: Any) -> list[CheckMessage]:
    """E105: WEBHOOKS_OWNER_OF_REQUEST names no function. W104: it is missing, and users own nothing."""
    path = settings.WEBHOOKS_OWNER_OF_REQUEST
    if path:
        try:
            if callable(import_string(path)):
                return []
            problem = "it is no function"
        except ImportError as failure:
            problem = str(failure)
        return [
            Error(
                f"WEBHOOKS_OWNER_OF_REQUEST is {path!r}, which cannot be used: {problem}.",
                hint='Name a function as "module.function"; it gets a request and returns an owner, '
                "his key or None.",
                id="webhooks.E105",
            )
        ]
    if owners_are_users() or not apps.is_installed("rest_framework"):
        return []
    return [
        Warning(
            f"Owners are {owner_model()._meta.label}, and nothing says for which of them a request to "
            "the API or the portal acts: all are refused.",
            hint="Set WEBHOOKS_OWNER_OF_REQUEST to a function from a request to its owner.",
            id="webhooks.W104",
        )
    ]


@register("webhooks")
def check_wakeup_packages(**_: Any) -> list[CheckMessage]:
    """E104: WEBHOOKS_WAKEUP is rq, and RQ, its client of Valkey or Valkey's address is missing."""
    missing = [name for name in ("redis", "rq", "django_rq") if find_spec(name) is None]
    if settings.WEBHOOKS_WAKEUP != "rq":
        return []
    if not settings.REDIS_URL:
        return [
            Error(
                "WEBHOOKS_WAKEUP is rq, and REDIS_URL is not set.",
                hint="Set REDIS_URL to a Valkey or Redis, or WEBHOOKS_WAKEUP to listen or poll.",
                id="webhooks.E104",
            )
        ]
    if not missing:
        return []
    return [
        Error(
            f"WEBHOOKS_WAKEUP is rq, and these packages are missing: {', '.join(missing)}.",
            hint="pip install remotedevai-webhooks[rq], or set WEBHOOKS_WAKEUP to listen or poll.",
            id="webhooks.E104",
        )
    ]
