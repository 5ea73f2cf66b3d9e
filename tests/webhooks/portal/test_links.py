"""Portal links: open once, for a while, by one owner, until they are revoked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient, client, make_client, make_token  # noqa: F401
from tests.webhooks.portal.conftest import Open, Things, end
from webhooks import service
from webhooks.errors import PortalLinkLimitError
from webhooks.models import AuditEntry, PortalLink, Webhook
from webhooks.portal.sharing import SHOWN_ENDED
from webhooks.registry import portal_links
from webhooks.registry.portal_links import KEPT_FOR

MakeWebhook = Callable[..., Webhook]


def url_of(link: PortalLink) -> str:
    return reverse("portal-open", args=[link.key])


def test_link_opens_once_and_on_a_post_only(user: User, things: Things) -> None:
    link = service.create_portal_link(user)
    browser = Client()

    # What looks at every link in a mail does not use it up.
    assert browser.get(url_of(link)).status_code == 200
    assert browser.head(url_of(link)).status_code == 200
    opened = browser.post(url_of(link))
    assert opened.status_code == 302
    assert b"Orders" in browser.get(opened["Location"]).content
    assert browser.post(url_of(link)).status_code == 404

    entry = AuditEntry.objects.get(action="portallink.open")
    assert entry.object_reference == f"portallink:{link.pk}"
    assert entry.source_address == "127.0.0.1"


def test_every_live_link_can_be_revoked(user: User, owner_client: Client) -> None:
    live, ended = (service.create_portal_link(user) for _ in range(2))
    for _ in range(SHOWN_ENDED + 5):
        service.revoke_portal_link(service.create_portal_link(user))
    end(ended)

    answer = owner_client.get("/portal/sharing/")

    assert f"/portal/sharing/link/{live.public_id}/revoke/" in answer.content.decode()
    shown = answer.context["links"]
    assert (shown[0], len(shown)) == (live, 1 + SHOWN_ENDED)
    assert ended not in shown


@pytest.mark.django_db
def test_who_tries_many_keys_waits(user: User, settings: Any) -> None:
    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = settings.WEBHOOKS_API_REQUESTS_PER_MINUTE | {
        "refused": 2
    }
    links = [service.create_portal_link(user) for _ in range(3)]
    assert [Client().post(url_of(link)).status_code for link in links] == [302] * 3

    answers = [Client().post(f"/portal/open/{number}/") for number in range(3)]

    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert int(answers[2]["Retry-After"]) > 0


@pytest.mark.django_db(transaction=True)
def test_of_two_who_open_it_one_gets_in(user: User) -> None:
    link = service.create_portal_link(user)

    def open_it(_: int) -> int:
        try:
            return Client().post(url_of(link)).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        found = sorted(threads.map(open_it, range(4)))

    assert found == [302, 404, 404, 404]


def test_expired_link_does_not_open(user: User) -> None:
    link = service.create_portal_link(user)
    PortalLink.objects.update(opens_until=timezone.now() - timedelta(seconds=1))

    assert Client().post(url_of(link)).status_code == 404
    assert PortalLink.objects.get().session_digest is None


@pytest.mark.parametrize(
    "key",
    ["", "x", "é", "%00", "a" * 5000, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")],
)
def test_unknown_keys_are_404(key: str, db: None) -> None:
    assert Client().post(f"/portal/open/{key}/").status_code == 404
    assert Client().get(f"/portal/s/{key}/").status_code == 404
    assert Client().post(f"/portal/s/{key}/check/").status_code == 404


def test_session_ends_by_its_time_by_revocation_and_with_the_account(
    user: User, things: Things, open_session: Open
) -> None:
    browser = Client()
    start = open_session(user)
    link = PortalLink.objects.get()
    assert browser.get(start).status_code == 200

    user.is_active = False
    user.save()
    assert browser.get(start).status_code == 404
    user.is_active = True
    user.save()
    assert browser.get(start).status_code == 200

    assert service.revoke_portal_link(link)
    answer = browser.get(start)
    assert answer.status_code == 404
    assert b"Orders" not in answer.content
    assert not service.revoke_portal_link(link)

    PortalLink.objects.update(revoked_at=None)
    assert browser.get(start).status_code == 200
    end(link)
    assert browser.get(start).status_code == 404


def test_session_of_one_webhook_ends_with_it(
    user: User, things: Things, open_session: Open
) -> None:
    start = open_session(user, webhook=things.webhook)
    assert Client().get(start).status_code == 200

    service.delete_webhook(things.webhook)

    assert Client().get(start).status_code == 404


def test_only_digests_are_stored(user: User, open_session: Open) -> None:
    link = service.create_portal_link(user)
    assert link.key is not None
    start = open_session(user)
    session_key = start.rstrip("/").split("/")[-1]

    with connection.cursor() as cursor:
        cursor.execute("SELECT string_agg(t::text, '') FROM webhooks_portallink t")
        stored = cursor.fetchone()[0]
    for key in (link.key, session_key):
        assert key not in stored
        assert key.encode().hex() not in stored


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"capabilities": ["everything"]}, "capabilities"),
        ({"opens_for": timedelta(0)}, "opens_for"),
        ({"opens_for": timedelta(days=8)}, "opens_for"),
        ({"session_lasts": timedelta(days=31)}, "session_lasts"),
        ({"return_url": "javascript:alert(1)"}, "return_url"),
        ({"return_url": "//evil.example"}, "return_url"),
        ({"return_url": "https://a\\@b"}, "return_url"),
        ({"return_url": "https://["}, "return_url"),
    ],
)
def test_what_makes_no_sense_is_refused(user: User, wish: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as problem:
        service.create_portal_link(user, **wish)

    assert list(problem.value.message_dict) == [field]
    assert not PortalLink.objects.exists()


def test_somebody_elses_webhook_is_refused(
    user: User, other_user: User, make_webhook: MakeWebhook
) -> None:
    with pytest.raises(ValidationError):
        service.create_portal_link(other_user, webhook=make_webhook())


def test_ended_links_are_removed_when_a_new_one_is_made(user: User) -> None:
    old, young = service.create_portal_link(user), service.create_portal_link(user)
    long_ago = timezone.now() - KEPT_FOR - timedelta(days=1)
    PortalLink.objects.filter(id=old.id).update(opens_until=long_ago)

    fresh = service.create_portal_link(user)

    assert set(PortalLink.objects.values_list("id", flat=True)) == {young.id, fresh.id}


def test_open_links_of_an_owner_are_bounded(
    client: APIClient,  # noqa: F811
    user: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portal_links, "MAX_OPEN", 3)
    links = [service.create_portal_link(user) for _ in range(3)]

    with pytest.raises(PortalLinkLimitError):
        service.create_portal_link(user)
    answer = client.post("/api/v1/portal-links", {})
    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:remotedevai:problem:limit-reached"

    service.revoke_portal_link(links[0])
    assert client.post("/api/v1/portal-links", {}).status_code == 201


def test_ended_links_that_are_kept_are_bounded(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_links, "MAX_ENDED", 2)
    links = [service.create_portal_link(user) for _ in range(4)]
    for link in links:
        service.revoke_portal_link(link)

    fresh = service.create_portal_link(user)

    kept = {links[2].id, links[3].id, fresh.id}
    assert set(PortalLink.objects.values_list("id", flat=True)) == kept


# The API.


def test_api_makes_a_link_that_opens(
    client: APIClient,  # noqa: F811
    user: User,
    things: Things,
) -> None:
    answer = client.post(
        "/api/v1/portal-links",
        {
            "capabilities": ["manage"],
            "webhookId": things.webhook.public_id,
            "returnUrl": "https://app.example.com/settings",
            "sessionMinutes": 60,
        },
    )

    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert body["capabilities"] == ["view", "manage"]
    assert body["webhookId"] == things.webhook.public_id
    assert body["url"].startswith("http://testserver/portal/open/")
    browser = Client()
    opened = browser.post(body["url"].removeprefix("http://testserver"))
    page = browser.get(opened["Location"]).content.decode()
    assert "Back to app.example.com" in page
    link = PortalLink.objects.get()
    assert link.session_ends_at is not None
    assert timedelta(minutes=59) < link.session_ends_at - timezone.now() <= timedelta(minutes=60)

    listed = client.get("/api/v1/portal-links").json()["results"]
    assert [one["id"] for one in listed] == [body["id"]]
    assert "url" not in listed[0]
    assert client.delete(f"/api/v1/portal-links/{body['id']}").status_code == 204
    assert browser.get(opened["Location"]).status_code == 404


@pytest.mark.parametrize(
    ("wish", "pointer"),
    [
        ({"webhookId": "whk_" + "0" * 32}, "/webhookId"),
        ({"userId": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71"}, None),
        ({"capabilities": ["root"]}, "/capabilities/0"),
        ({"returnUrl": "ftp://x"}, "/returnUrl"),
        ({"sessionMinutes": 0}, "/sessionMinutes"),
        ({"opensForMinutes": 20_000}, "/opensForMinutes"),
    ],
)
def test_api_names_what_is_wrong(
    client: APIClient,  # noqa: F811
    wish: dict[str, Any],
    pointer: str | None,
) -> None:
    answer = client.post("/api/v1/portal-links", wish)

    assert answer.status_code == (400 if pointer else 403)
    if pointer:
        assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]
    assert not PortalLink.objects.exists()


# The admin.


def test_operator_makes_a_link_for_a_customer(user: User, things: Things) -> None:
    operator = User.objects.create_superuser("root", "root@example.com", "root")
    browser = Client()
    browser.force_login(operator)
    path = f"/admin/webhooks/webhook/{things.webhook.pk}/portal-link/"

    assert browser.get(path).status_code == 200
    page = browser.post(path, {"capabilities": ["view"], "is_limited": "on"}).content.decode()

    link = PortalLink.objects.get()
    assert (link.owner, link.webhook, link.created_by_id) == (user, things.webhook, operator.pk)
    opened = Client().post("/portal/open/" + page.split("/portal/open/")[1].split("/")[0] + "/")
    assert opened.status_code == 302
    assert AuditEntry.objects.filter(action="portallink.create", actor_id=operator.pk).exists()


def test_link_ends_with_the_account_of_who_made_it(user: User) -> None:
    staff = User.objects.create(username="root", email="root@example.com", is_staff=True)
    opened, unopened = (service.create_portal_link(user, created_by=staff) for _ in range(2))
    browser = Client()
    page = browser.post(url_of(opened))["Location"]
    assert browser.get(page).status_code == 200

    User.objects.filter(pk=staff.pk).update(is_active=False)

    assert browser.get(page).status_code == 404
    assert browser.post(url_of(unopened)).status_code == 404


def test_token_that_may_not_read_makes_no_link(
    user: User,
    make_client: MakeClient,  # noqa: F811
) -> None:
    refused = make_client(user, "write").post("/api/v1/portal-links", {})

    assert refused.status_code == 403
    assert "'read'" in refused.json()["detail"]
    assert not PortalLink.objects.exists()
