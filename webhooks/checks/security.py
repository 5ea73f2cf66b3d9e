"""Security: keys that do not fit, and settings that open doors."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, InterfaceError, connection

from webhooks.repair import reencryption
from webhooks.wire.addresses import is_public_network


@register("webhooks")
def check_encryption_keys(**_: Any) -> list[CheckMessage]:
    """E101: something in the database cannot be decrypted, so its webhooks would not be sent to.

    Says nothing while the database cannot be asked.
    """
    was_open = connection.connection is not None
    try:
        unreadable = reencryption.count_unreadable()
    except (DatabaseError, InterfaceError):
        return []
    finally:
        # A worker pool forks after the checks; children must not share a connection.
        if not was_open:
            connection.close()
    if not unreadable:
        return []
    return [
        Error(
            f"{unreadable} stored secrets or headers are encrypted with a key that is not in "
            "WEBHOOKS_ENCRYPTION_KEYS; nothing is sent to their webhooks.",
            hint="Put the former key behind the new one, run `manage.py reencrypt`, then remove it.",
            id="webhooks.E101",
        )
    ]


@register("webhooks")
def check_proxy(**_: Any) -> list[CheckMessage]:
    """W101: with a proxy our address table guards nothing at send."""
    if not settings.WEBHOOKS_PROXY_URL:
        return []
    return [
        Warning(
            "WEBHOOKS_PROXY_URL is set: the proxy decides which addresses webhooks may reach, "
            "the table of forbidden addresses is only applied when a URL is saved.",
            hint="Use a proxy that refuses private addresses, such as smokescreen, and then add "
            "webhooks.W101 to SILENCED_SYSTEM_CHECKS.",
            id="webhooks.W101",
        )
    ]


@register(Tags.security, deploy=True)
def check_allowed_networks(**_: Any) -> list[CheckMessage]:
    """W102: users may point webhooks into a network that is not public."""
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
            hint="Remove what is not meant for webhooks; the demo and tests open loopback only.",
            id="webhooks.W102",
        )
    ]


@register(Tags.security, deploy=True)
def check_https_is_required(**_: Any) -> list[CheckMessage]:
    """W103: payloads may travel in clear text."""
    if settings.WEBHOOKS_REQUIRE_HTTPS:
        return []
    return [
        Warning(
            "Webhooks may have http:// URLs: payloads and custom headers travel in clear text.",
            hint="Set WEBHOOKS_REQUIRE_HTTPS=1.",
            id="webhooks.W103",
        )
    ]
