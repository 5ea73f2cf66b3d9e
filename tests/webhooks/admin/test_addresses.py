"""An audit entry bears the address of the person, not that of the proxy in between."""

from typing import Any

import pytest
from django.test import Client

from webhooks.models import AuditEntry, Webhook

FORWARDED = [
    ("198.51.100.7", "198.51.100.7"),
    ("203.0.113.5, 198.51.100.7", "198.51.100.7"),
    ("unknown", None),
    ("x\0y", None),
]


@pytest.mark.usefixtures("password")
@pytest.mark.parametrize(("forwarded", "address"), FORWARDED)
def test_entries_bear_the_address_of_the_person(
    operator: Client, webhook: Webhook, settings: Any, forwarded: str, address: str | None
) -> None:
    settings.WEBHOOKS_TRUSTED_PROXIES = 1
    page = f"/admin/webhooks/webhook/{webhook.pk}"
    header = {"X-Forwarded-For": forwarded}

    operator.post(f"{page}/disable/", {"reason": "x"}, headers=header)
    operator.post(f"{page}/reveal-secrets/", {"reason": "x", "password": "guess"}, headers=header)
    operator.post("/admin/password_change/", {"old_password": "guess"}, headers=header)
    operator.post("/admin/auth/group/add/", {"name": "Night shift"}, headers=header)

    entries = dict(AuditEntry.objects.values_list("action", "source_address"))
    assert entries == dict.fromkeys(
        ["webhook.disable", "secret.refuse", "password.refuse", "group.create"], address
    )
