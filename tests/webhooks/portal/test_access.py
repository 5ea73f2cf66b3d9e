"""Nothing leaks and nothing changes: every page × everybody whose it is not."""

from dataclasses import replace
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from projects.models import User
from tests.webhooks.api.conftest import grant
from tests.webhooks.api.matrix import rows_of_all_tables
from tests.webhooks.portal.conftest import Open, Things, end, every_page, make_things
from webhooks import service
from webhooks.doors import access
from webhooks.models import ApiToken, AuditEntry, PortalLink
from webhooks.portal.urls import ACTING, PAGES

FORM = {
    "name": "Mine now", "url": "http://127.0.0.1:9/eve", "events": "*", "timeout_seconds": 5,
    "max_retries": 3, "retry_delay_seconds": 5, "send": "all", "overlap": "0", "kind": "failed",
    "since": "2026-01-01T00:00:00", "event_type": "webhook.test", "headers": "a: b",
    "computed": "x", "scopes": "write", "days": 5, "password": "x", "hours": 5,
}  # fmt: skip
MARKS = ("Orders", "127.0.0.1:9/hook", "out of disk", "X-Secret-Free", "Payroll 2027")
"""Of what the owner has: a name, a URL, a response, a request, a payload."""
WHERE = {name: where for where, _, name in PAGES}
OWN = {"check"}
"""Pages that act on a POST of whoever may look: they change nothing."""


def paths(start: str, things: Things) -> dict[str, str]:
    return {name: start + path for name, path in every_page(things).items()}


def leaks(content: bytes, things: Things, path: str) -> list[str]:
    text = content.decode()
    ids = [things.webhook.public_id, things.event.public_id, things.delivery.public_id,
           things.redelivery.public_id]  # fmt: skip
    return [one for one in (*MARKS, *ids) if one in text and one not in path]


def assert_shut(client: Client, start: str, things: Things, statuses: set[int]) -> None:
    """Whatever is asked, by GET and POST, tells and changes nothing of these things."""
    before = rows_of_all_tables()
    for name, path in paths(start, things).items():
        for method in ("get", "post"):
            form = FORM | {"webhook": things.webhook.public_id}
            answer = getattr(client, method)(path, form)
            # A problem may repeat what the request itself names.
            assert leaks(answer.content, things, path + str(form)) == [], f"{method} {name}"
            about_it = str(things.arguments(WHERE[name]))
            if "_" in about_it and "project.created" not in about_it:
                assert answer.status_code in statuses | {404, 405}, f"{method} {name}"
    ignored = {"django_session", "webhooks_auditentry", "webhooks_webhook", "webhooks_signingsecret",
               "webhooks_apitoken", "webhooks_portallink", "webhooks_inbox"}  # fmt: skip
    after = rows_of_all_tables()
    assert {t: d for t, d in after.items() if t not in ignored} == {
        t: d for t, d in before.items() if t not in ignored
    }


@pytest.fixture
def others(other_user: User) -> Things:
    return make_things(other_user, "Strangers")


def snapshot(things: Things) -> list[Any]:
    things.webhook.refresh_from_db()
    webhook = things.webhook
    return [
        webhook.name, webhook.url, webhook.active, webhook.deleted_at, webhook.revision,
        list(webhook.secrets.values_list("id", "expires_at")),
        things.delivery.__class__.objects.filter(webhook=webhook).values_list("id", "round").count(),
        PortalLink.objects.filter(owner=webhook.owner).values_list("revoked_at").count(),
    ]  # fmt: skip


def test_another_owner_sees_and_changes_nothing(
    things: Things, others: Things, other_user: User
) -> None:
    client = Client()
    client.force_login(other_user)
    before = snapshot(things)

    assert_shut(client, "/portal/", things, set())

    assert snapshot(things) == before


def test_staff_see_their_own_here_and_nothing_else(things: Things, db: None) -> None:
    staff = User.objects.create(username="root", email="r@example.com", is_staff=True)
    grant(staff, *(one for deed in access.DEEDS for one in deed.permissions))
    superuser = User.objects.create_superuser("su", "su@example.com", "su")
    before = snapshot(things)
    for user in (staff, superuser):
        client = Client()
        client.force_login(user)

        assert_shut(client, "/portal/", things, set())

    assert snapshot(things) == before


def test_link_of_another_owner(
    things: Things, others: Things, other_user: User, open_session: Open
) -> None:
    start = open_session(other_user, "manage", "secrets")
    before = snapshot(things)

    assert_shut(Client(), start, things, {403})

    assert snapshot(things) == before


@pytest.mark.parametrize("how", ["expired", "revoked", "inactive"])
def test_session_that_has_ended(how: str, things: Things, user: User, open_session: Open) -> None:
    start = open_session(user, "manage", "secrets")
    link = PortalLink.objects.get()
    if how == "expired":
        end(link)
    elif how == "revoked":
        service.revoke_portal_link(link)
    else:
        User.objects.filter(pk=user.pk).update(is_active=False)
    before = rows_of_all_tables()

    for name, path in paths(start, things).items():
        for method in ("get", "post"):
            answer = getattr(Client(), method)(path, FORM)
            assert answer.status_code in (404, 405), f"{method} {name}"
            assert leaks(answer.content, things, path) == [], f"{method} {name}"

    assert rows_of_all_tables() == before


def test_who_is_not_signed_in_is_sent_to_the_login(things: Things) -> None:
    before = rows_of_all_tables()
    for name, path in paths("/portal/", things).items():
        for method in ("get", "post"):
            answer = getattr(Client(), method)(path, FORM)
            is_shut = answer.status_code == 405 or answer["Location"].startswith("/portal/login/")
            assert is_shut, f"{method} {name}"
    assert rows_of_all_tables() == before


def test_view_only_link_changes_nothing(things: Things, user: User, open_session: Open) -> None:
    start = open_session(user)
    ApiToken.objects.issue(user, name="mine", scopes=["read"], lifetime=None)
    client, before = Client(), rows_of_all_tables()

    found = {}
    for _, _, name in ACTING:
        path = paths(start, things)[name]
        answer = client.post(path, FORM | {"webhook": things.webhook.public_id})
        found[name] = answer.status_code

    assert found == {name: 200 if name in OWN else 403 for name in found}
    assert rows_of_all_tables() == before
    for name in ("start", "webhook", "settings", "secret", "delivery", "recover", "deliveries"):
        page = client.get(paths(start, things)[name])
        assert page.status_code == 200
        assert b'method="post"' not in page.content, name


def test_managing_link_sees_no_secret(things: Things, user: User, open_session: Open) -> None:
    start = open_session(user, "manage")
    client, before = Client(), snapshot(things)

    for name in ("add", "rotate", "revoke", "add-token", "add-link"):
        assert client.post(paths(start, things)[name], FORM).status_code == 403, name

    assert snapshot(things) == before
    assert client.get(paths(start, things)["secret"]).status_code == 200


def test_link_for_another_webhook_of_the_owner(
    things: Things, user: User, open_session: Open
) -> None:
    webhook = service.create_webhook(
        user, name="Narrow", url="http://127.0.0.1:9/narrow", events=["agent.*"]
    )
    # A twin of the other one, which the owner himself is warned of.
    for name in ("Orders of old", "Orders of late"):
        service.create_webhook(user, name=name, url=webhook.url, events=["agent.*"])
    start = open_session(user, "manage", "secrets", webhook=webhook)
    client, before = Client(), snapshot(things)

    for name, path in paths(start, things).items():
        for method in ("get", "post"):
            form = FORM | {"webhook": things.webhook.public_id}
            answer = getattr(client, method)(path, form)
            # A problem may repeat what the request itself names.
            assert leaks(answer.content, things, path + str(form)) == [], f"{method} {name}"

    assert snapshot(things) == before
    assert b"Narrow" in client.get(start).content
    # Nor do the pages of its own webhook tell of the others.
    own = replace(things, webhook=webhook)
    for name, path in paths(start, own).items():
        shown = client.get(path).content
        assert b"Orders" not in shown, name
    # Of the event it says no more than what concerns this webhook.
    page = client.get(paths(start, things)["event"]).content.decode()
    assert "does not select project.deleted" in page
    assert client.post(paths(start, things)["add"], FORM).status_code == 403


def test_what_a_link_does_is_written_down_with_the_link(
    things: Things, user: User, open_session: Open
) -> None:
    start = open_session(user, "manage")
    link = PortalLink.objects.get()

    Client().post(f"{start}webhook/{things.webhook.public_id}/disable/")

    entry = AuditEntry.objects.get(action="webhook.disable")
    assert entry.actor_id == user.pk
    assert entry.changes == {"active": [True, False], "portal_link": link.public_id}


def test_platform_webhooks_are_nobodys_business(things: Things, owner_client: Client) -> None:
    platform = service.create_webhook(
        None, name="Ears of the house", url="http://127.0.0.1:9/all", events=["*"], is_platform=True
    )
    for path in paths("/portal/", things).values():
        assert b"Ears of the house" not in owner_client.get(path).content
    answer = owner_client.get(reverse("portal:webhook", args=[platform.public_id]))
    assert answer.status_code == 404
