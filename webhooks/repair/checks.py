"""System checks E101 and W101 to W103: encryption keys, and settings that weaken security."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, InterfaceError, connection

from webhooks.repair import reencryption
from webhooks.wire.addresses import is_public_network


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
