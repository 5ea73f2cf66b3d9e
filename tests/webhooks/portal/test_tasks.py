"""What the portal's forms do, and what they refuse."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from projects.models import Project, User
from tests.webhooks.portal.conftest import DATA, Open, Things, every_page, make_things
from webhooks import service
from webhooks.doors import allowances
from webhooks.errors import WebhookNotSendingError
from webhooks.figures import pages
from webhooks.models import ApiToken, Attempt, AuditEntry, Delivery, Event, Redelivery, Webhook
from webhooks.workbench import enabling
from webhooks.workbench.receiver import Behaviour, HttpReceiver
from webhooks.workbench.test_send import send_test

SETTINGS = {
    "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000,
    "batch_milliseconds": 0,
    "name": "Orders", "url": "http://127.0.0.1:9/hook", "events": ["project.*"],
    "timeout_seconds": 15, "max_retries": 10, "retry_delay_seconds": 60,
}  # fmt: skip


def post(client: Client, path: str, **form: Any) -> Any:
    return client.post(f"/portal/{path}", form)


def test_webhook_is_added_and_its_secret_shown_once(owner_client: Client, user: User) -> None:
    form = {
        "name": "Shop",
        "url": "http://127.0.0.1:9/in",
        "events": ["project.created", "agent.*"],
    }
    answer = post(owner_client, "webhook/new/", **form)

    made = Webhook.objects.get()
    secret = made.secrets.get().value
    assert secret in answer.content.decode()
    assert (made.owner_id, made.events) == (user.pk, ["project.created", "agent.*"])
    assert [entry.action for entry in AuditEntry.objects.all()] == ["webhook.create"]
    for path in ("", f"webhook/{made.public_id}/", f"webhook/{made.public_id}/secret/"):
        assert secret not in owner_client.get(f"/portal/{path}").content.decode()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"url": "ftp://x"}, "id_url_error"),
        ({"url": ""}, "id_url_error"),
        ({"events": []}, "Choose at least one event type"),
        ({"events": ["no.such"]}, "no.such is not one of"),
        ({"name": "x" * 201}, "id_name_error"),
        ({"name": "a\0b"}, "id_name_error"),
    ],
)
def test_webhook_that_cannot_be_is_refused_beside_its_field(
    owner_client: Client, change: dict[str, Any], problem: str
) -> None:
    answer = post(owner_client, "webhook/new/", **(SETTINGS | change))

    assert answer.status_code == 422
    assert problem in answer.content.decode()
    assert not Webhook.objects.exists()


def test_settings_are_changed_by_the_service(owner_client: Client, things: Things) -> None:
    form = SETTINGS | {
        "events": ["*"], "rate_limit": "2.5", "order": "object", "custom_headers": "X-Team: canary-a",
        "max_retries": "3",
    }  # fmt: skip
    answer = post(owner_client, f"webhook/{things.webhook.public_id}/settings/", **form)

    assert answer.status_code == 302
    things.webhook.refresh_from_db()
    assert (things.webhook.events, things.webhook.rate_limit) == (["*"], 2.5)
    assert things.webhook.headers == {"X-Team": "canary-a"}
    entry = AuditEntry.objects.get(action="webhook.change")
    assert entry.changes == {
        "events": [["project.*"], ["*"]], "rate_limit": [None, 2.5], "order": ["none", "object"],
        "headers": "•••", "max_retries": [10, 3],
    }  # fmt: skip
    page = owner_client.get(f"/portal/webhook/{things.webhook.public_id}/settings/").content
    assert b"X-Team" in page
    assert b"canary-a" not in page


def test_headers_do_not_follow_a_url_to_another_server(
    owner_client: Client, things: Things
) -> None:
    service.update_webhook(things.webhook, headers={"X-Team": "a"})
    form = SETTINGS | {"url": "http://127.0.0.2:9/hook"}
    answer = post(owner_client, f"webhook/{things.webhook.public_id}/settings/", **form)

    assert answer.status_code == 422
    assert "give the custom headers again" in answer.content.decode()
    things.webhook.refresh_from_db()
    assert things.webhook.url == "http://127.0.0.1:9/hook"


@pytest.mark.parametrize(
    "query",
    [
        "status=NONE", "type=no.such", "response=9xx", "since=yesterday", "since=0001-01-01T00:00:00",
        "until=9999-12-31T23:59:59", "webhook=whk_0", "object=" + "x" * 200, "webhook=%27--",
    ],
)  # fmt: skip
def test_filter_that_means_nothing_is_said_and_left_out(
    owner_client: Client, things: Things, query: str
) -> None:
    page = owner_client.get(f"/portal/deliveries/?{query}").content.decode()

    assert "errorlist" in page
    assert "project.deleted" in page


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        ("status=FAILED", True), ("status=SUCCESS", False), ("type=project.deleted", True),
        ("type=project.created", False), ("response=5xx", True), ("response=none", False),
        ("since=2026-01-01T00:00:00", True), ("until=2026-01-01T00:00:00", False),
        ("object=nothing", False),
    ],
)  # fmt: skip
def test_filters(owner_client: Client, things: Things, query: str, is_found: bool) -> None:
    page = owner_client.get(f"/portal/deliveries/?{query}").content.decode()

    assert (things.delivery.public_id in page) is is_found
    assert ("No delivery fits" in page) is not is_found


def test_deliveries_are_found_by_their_object(
    owner_client: Client, user: User, things: Things
) -> None:
    project = Project.objects.create(owner=user, name="Wanted")
    wanted = Delivery.objects.get(event_type="project.created")

    for text in (str(project.pk), f"project:{project.pk}"):
        page = owner_client.get("/portal/deliveries/", {"object": text}).content.decode()
        assert wanted.public_id in page
        assert things.delivery.public_id not in page


def test_pages_of_a_filtered_list_lead_through_all_of_it(
    owner_client: Client, user: User, things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_SCANNED", 4)
    for _ in range(9):
        service.trigger_event("project.deleted", user, DATA)
    path, seen = "/portal/deliveries/?status=FAILED", []
    while path:
        page = owner_client.get(path).content.decode()
        seen.append(things.delivery.public_id in page)
        link = page.split('rel="next"')[0].rsplit('href="', 1) if 'rel="next"' in page else []
        path = "/portal/deliveries/" + link[1].split('"')[0].replace("&amp;", "&") if link else ""

    # Three pages of four rows each, of which the last has what is looked for.
    assert seen == [False, False, True]


def test_test_then_enable_restores_what_was(owner_client: Client, things: Things) -> None:
    webhook = things.webhook
    with HttpReceiver() as receiver:
        Webhook.objects.update(url=f"{receiver.url}/in")
        service.disable(Webhook.objects.get(), "Gone")
        receiver.script(Behaviour(status=500))
        path = f"webhook/{webhook.public_id}/enable/"
        failed = post(owner_client, path, send="recent", is_tested="on")
        assert "The test failed" in failed.content.decode()
        webhook.refresh_from_db()
        assert (webhook.active, webhook.disabled_reason) == (False, "Gone")
        assert webhook.held_until is None

        receiver.script(Behaviour(status=200))
        assert post(owner_client, path, send="recent", is_tested="on").status_code == 302
        webhook.refresh_from_db()
        assert webhook.active
        assert len(receiver.requests) == 2

    actions = list(AuditEntry.objects.order_by("id").values_list("action", flat=True))
    assert actions == ["webhook.test", "webhook.test", "webhook.enable"]


def test_webhook_stays_disabled_while_the_test_is_out(
    things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(*args: Any, **options: Any) -> Any:
        seen.append(Webhook.objects.get().active)
        return send_test(*args, **options)

    monkeypatch.setattr(enabling, "send_test", look)
    with HttpReceiver() as receiver:
        Webhook.objects.update(url=f"{receiver.url}/in")
        webhook = Webhook.objects.get()
        service.disable(webhook)

        assert service.enable_if_it_answers(webhook).succeeded

    assert seen == [False]
    assert Webhook.objects.get().active


def test_enabling_needs_the_proof_that_the_settings_ask_for(
    owner_client: Client, things: Things, settings: Any
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = "require"
    service.disable(things.webhook)
    answer = post(
        owner_client, f"webhook/{things.webhook.public_id}/enable/", send="all", is_tested="on"
    )

    assert answer.status_code == 422
    assert "verify the webhook first" in answer.content.decode()
    things.webhook.refresh_from_db()
    assert not things.webhook.active


def test_recovery_counts_what_it_then_sends(owner_client: Client, things: Things) -> None:
    path = f"webhook/{things.webhook.public_id}/recover/"
    since = (timezone.now() - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")
    query = {"kind": "failed", "since": since}

    counted = owner_client.get(f"/portal/{path}", query).content.decode()
    assert "1 would be sent" in counted
    started = post(owner_client, path, **query)

    assert started.status_code == 302
    asked = Redelivery.objects.order_by("-id")[0]
    assert started["Location"] == f"/portal/redelivery/{asked.public_id}/"
    assert asked.matched_count == 1
    assert asked.scope["webhook_id"] == str(things.webhook.pk)


def test_link_to_one_webhook_shows_how_far_its_resend_is(
    client: Client, user: User, things: Things, open_session: Open
) -> None:
    start = open_session(user, "manage", webhook=things.webhook)
    client.post(f"{start}delivery/{things.delivery.public_id}/resend/")
    resent = Redelivery.objects.order_by("-id")[0]

    assert client.get(f"{start}redelivery/{resent.public_id}/").status_code == 200
    recovery = client.get(f"{start}webhook/{things.webhook.public_id}/recover/")
    assert resent.public_id not in recovery.content.decode(), "one delivery is no recovery"


@pytest.mark.parametrize("path", ["recover", "resend", "event-send"])
def test_quota_of_redeliveries_holds_here_too(
    owner_client: Client, user: User, things: Things, settings: Any, path: str
) -> None:
    settings.WEBHOOKS_QUOTAS_PER_HOUR = settings.WEBHOOKS_QUOTAS_PER_HOUR | {"redeliveries": 1}
    allowances.spend("redeliveries", user.pk, 1)
    before = Redelivery.objects.count()

    answer = post(
        owner_client, every_page(things)[path], kind="failed", since="2026-01-01T00:00:00"
    )

    assert "are used up" in answer.content.decode()
    assert answer.status_code == 422
    assert Redelivery.objects.count() == before


def quota_left(user: User) -> int:
    return allowances.spend("redeliveries", user.pk, 0).remaining


def test_what_is_not_sent_again_costs_no_quota(
    owner_client: Client, user: User, things: Things, settings: Any
) -> None:
    settings.WEBHOOKS_QUOTAS_PER_HOUR = settings.WEBHOOKS_QUOTAS_PER_HOUR | {"redeliveries": 2}
    path = every_page(things)
    for _ in range(3):
        service.trigger_event("project.deleted", user, DATA)
    Delivery.objects.update(status="FAILED", finished_at=timezone.now(), next_attempt_at=None)

    recovery = {"kind": "failed", "since": "2026-01-01T00:00:00"}
    too_many = post(owner_client, path["recover"], **recovery)
    Delivery.objects.filter(id=things.delivery.id).update(status="SENDING", finished_at=None)
    in_flight = post(owner_client, path["resend"])

    assert (too_many.status_code, in_flight.status_code) == (422, 422)
    assert "in flight" in in_flight.content.decode()
    assert quota_left(user) == 2


def test_missed_events_cost_quota_when_they_are_sent(
    owner_client: Client, user: User, things: Things
) -> None:
    before = quota_left(user)
    path = f"webhook/{things.webhook.public_id}/enable/"
    form = {"send": "all", "send_missed": "on", "is_tested": "on"}
    with HttpReceiver() as receiver:
        Webhook.objects.update(url=f"{receiver.url}/in")
        service.disable(Webhook.objects.get())
        service.trigger_event("project.deleted", user, DATA)
        receiver.script(Behaviour(status=500))
        post(owner_client, path, **form)
        failed = quota_left(user)
        receiver.script(Behaviour(status=200))
        assert post(owner_client, path, **form).status_code == 302

    assert (failed, quota_left(user)) == (before, before - 1)


@pytest.mark.parametrize(
    ("limit", "name", "form"),
    [
        ("test", "test", {"event_type": "webhook.test"}),
        ("test", "enable", {"send": "all", "is_tested": "on"}),
        ("secret", "rotate", {"overlap": "0"}),
        ("secret", "add", SETTINGS),
        ("password", "add-token", {}),
    ],
)
def test_dear_requests_are_limited_as_in_the_api(
    owner_client: Client, things: Things, settings: Any, limit: str, name: str, form: dict[str, Any]
) -> None:
    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = settings.WEBHOOKS_API_REQUESTS_PER_MINUTE | {
        limit: 0
    }
    service.disable(things.webhook)

    answer = post(owner_client, every_page(things)[name], **form)

    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0


def test_pages_are_limited(
    owner_client: Client, things: Things, open_session: Open, settings: Any
) -> None:
    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = settings.WEBHOOKS_API_REQUESTS_PER_MINUTE | {
        "portal": 2
    }
    page = "/portal/"

    assert [owner_client.get(page).status_code for _ in range(3)] == [200, 200, 429]
    # A link does not multiply it.
    answer = Client().get(open_session(things.webhook.owner))
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0


def test_login_is_limited(db: None, settings: Any) -> None:
    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = settings.WEBHOOKS_API_REQUESTS_PER_MINUTE | {
        "login": 1
    }
    client = Client()
    form = {"username": "ada", "password": "wrong"}

    assert client.post("/portal/login/", form).status_code == 200
    assert client.post("/portal/login/", form).status_code == 429


def test_token_needs_the_password_and_works(owner_client: Client, user: User) -> None:
    user.set_password("a password 1")
    user.save()
    owner_client.force_login(user)
    form = {"name": "CI", "scopes": ["read"], "days": "5"}

    refused = post(owner_client, "sharing/token/", **form, password="guess")
    assert refused.status_code == 422
    assert not ApiToken.objects.exists()
    made = post(owner_client, "sharing/token/", **form, password="a password 1").content.decode()
    text = made.split('id="new-token"')[1].split(">")[1].split("<")[0]
    headers = {"Authorization": f"Bearer {text}"}
    assert Client().get("/api/v1/webhooks", headers=headers).status_code == 200

    token = ApiToken.objects.get()
    post(owner_client, f"sharing/token/{token.public_id}/revoke/")
    assert not ApiToken.objects.exists()
    actions = list(AuditEntry.objects.order_by("id").values_list("action", flat=True))
    assert actions == ["password.refuse", "apitoken.create", "apitoken.delete"]


@pytest.mark.parametrize("text", ["evt_", "evt_zz", "x" * 500, "<b>", "del_" + "0" * 31])
def test_what_is_no_id_is_said_so(owner_client: Client, text: str) -> None:
    answer = owner_client.get("/portal/find/", {"q": text})

    assert answer.status_code == 422
    assert "This is not an id" in answer.content.decode()


def test_id_of_nothing_is_404_with_a_way_back(owner_client: Client) -> None:
    for prefix in ("evt_", "del_", "whk_", "red_"):
        found = owner_client.get("/portal/find/", {"q": prefix + "0" * 32}, follow=True)
        assert found.status_code == 404
        assert b"To your webhooks" in found.content


def test_page_that_takes_too_long_says_what_to_do(
    owner_client: Client, things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(*_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '20ms'; SELECT pg_sleep(5)")

    monkeypatch.setattr("webhooks.figures.overview.hours", sleep)

    answer = owner_client.get("/portal/figures/")

    assert answer.status_code == 503
    assert "choose a shorter time" in answer.content.decode()


def test_charts_are_drawn_alike_in_every_language(owner_client: Client, things: Things) -> None:
    for number in range(3):
        Delivery.objects.filter(id=things.delivery.id).update(
            status=("FAILED", "SUCCESS", "PENDING")[number]
        )
        path = f"/portal/webhook/{things.webhook.public_id}/"
        pages_ = [
            owner_client.get(path, headers={"Accept-Language": language}).content.decode()
            for language in ("en", "de")
        ]
        drawn = [re.findall(r'<rect class="fill[^>]*>', page) for page in pages_]
        assert drawn[0] == drawn[1] != []


def test_no_transaction_is_open_while_a_receiver_is_waited_for(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = User.objects.create_user("eve", "eve@example.com", "x")
    things = make_things(user)
    client = Client()
    client.force_login(user)
    seen = []

    def look(*_: Any, **__: Any) -> None:
        seen.append(connection.in_atomic_block)
        raise WebhookNotSendingError

    monkeypatch.setattr(service, "test_webhook", look)
    monkeypatch.setattr(service, "enable_if_it_answers", look)
    monkeypatch.setattr(service, "rotate_secret", look)
    page = every_page(things)
    post(client, page["test"], event_type="webhook.test")
    post(client, page["event-type"], webhook=things.webhook.public_id)
    # What waits for nobody is done in one transaction.
    post(client, page["rotate"], overlap="0")
    service.disable(things.webhook)
    post(client, page["enable"], send="all", is_tested="on")

    assert seen == [False, False, True, False]


def test_charts_and_choices_speak_german_too(owner_client: Client, things: Things) -> None:
    german = {"Accept-Language": "de"}
    figures = owner_client.get("/portal/figures/", headers=german).content.decode()
    settings = owner_client.get(
        f"/portal/webhook/{things.webhook.public_id}/settings/", headers=german
    ).content.decode()

    assert "UTC: nichts zugestellt" in figures
    assert "UTC: nichts<" in figures
    assert "UTC: nothing" not in figures
    assert "Roh: nur die Daten" in settings
    assert "Raw: the data alone" not in settings


def test_language_is_the_browsers(
    client: Client, user: User, things: Things, open_session: Open
) -> None:
    start = open_session(user)

    english = client.get(start, headers={"Accept-Language": "fr, en;q=0.5"})
    german = client.get(start, headers={"Accept-Language": "de-AT, en;q=0.5"})

    assert b'<html lang="en"' in english.content
    assert b'<html lang="de"' in german.content
    assert "Zustellungen" in german.content.decode()


def test_phases_of_an_attempt_are_shown_where_they_are_recorded(
    owner_client: Client, things: Things
) -> None:
    path = f"/portal/delivery/{things.delivery.public_id}/"
    assert "How long each phase took" not in owner_client.get(path).content.decode()

    Attempt.objects.update(
        body_sha256=b"\xab" * 32, phases_us=[11_000, 22_000, 33_000, 44_000, 55_000, 66_000]
    )

    page = owner_client.get(path).content.decode()
    assert "ab" * 32 in page
    for label, shown in (("Connect", "22 ms"), ("TLS", "33 ms"), ("Wait", "55 ms")):
        assert f'data-label="{label}">{shown}' in page


@pytest.mark.django_db(transaction=True)
def test_a_challenge_is_sent_by_a_button_and_the_page_says_what_is_missing(
    owner_client: Client, things: Things, settings: Any
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = "advise"
    path = f"webhook/{things.webhook.public_id}/"
    with HttpReceiver() as receiver:
        Webhook.objects.update(url=f"{receiver.url}/in")
        answer = post(owner_client, f"{path}verify/")
        assert answer["Location"] == f"/portal/{path}?done=unverified"
        assert [one.event_type for one in receiver.requests] == ["webhook.challenge"]
    page = owner_client.get(answer["Location"]).content.decode()
    assert "The webhook is not verified" in page
    assert "answer 2xx with the value of data.challenge" in page


def test_long_payload_is_saved_whole(owner_client: Client, user: User) -> None:
    webhook = service.create_webhook(
        user, name="Orders", url="http://127.0.0.1:9/hook", events=["project.*"]
    )
    event = service.trigger_event("project.deleted", user, DATA | {"name": "x" * 100_000})
    delivery = Delivery.objects.get(event=event, webhook=webhook)
    for page in (f"/portal/delivery/{delivery.public_id}/", f"/portal/event/{event.public_id}/"):
        link = f"{page}payload/"
        assert link in owner_client.get(page).content.decode()

        answer = owner_client.get(link)

        assert answer.content == bytes(event.payload)
        assert answer["Content-Disposition"] == 'attachment; filename="payload.json"'
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer["Content-Security-Policy"]
        assert "no-store" in answer["Cache-Control"]

    Event.objects.filter(id=event.id).update(payload=b"")
    assert owner_client.get(link).status_code == 404


def test_link_to_one_webhook_saves_what_was_sent_to_it(
    things: Things, user: User, open_session: Open
) -> None:
    other = service.create_webhook(
        user, name="Other", url="http://127.0.0.1:9/hook", events=["session.*"]
    )
    path = f"event/{things.event.public_id}/payload/"

    assert Client().get(open_session(user, webhook=things.webhook) + path).status_code == 200
    assert Client().get(open_session(user, webhook=other) + path).status_code == 404
