"""Every page of the portal: it answers, weighs little, asks few questions, and is safe to frame."""

from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

import webhooks
from projects.models import User
from tests.webhooks.portal.conftest import Open, Things, every_page, make_things

MOST_QUERIES = 24
MOST_BYTES = 150 * 1024
ANSWERS = {
    # These act on a POST only; a GET leads back, or there is no such token or link here.
    "disable": 302, "rotate": 302, "revoke": 302, "redelivery-cancel": 302, "resend": 302,
    "event-send": 302, "add-token": 302, "add-link": 302, "enable": 302, "verify": 302,
    "revoke-token": 404, "inbox-request": 404, "revoke-link": 404,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() | {"start", "webhook"}))
def test_answers_are_of_pages(name: str, things: Things) -> None:
    assert name in every_page(things)


def test_every_page_answers_with_few_statements(owner_client: Client, things: Things) -> None:
    found = {}
    for name, path in every_page(things).items():
        with CaptureQueriesContext(connection) as queries:
            answer = owner_client.get(f"/portal/{path}")
        found[name] = answer.status_code
        assert len(queries) <= MOST_QUERIES, f"{name}: {len(queries)}"
        assert len(answer.content) < MOST_BYTES, name

    assert found == {name: ANSWERS.get(name, 200) for name in found}


def test_statements_do_not_grow_with_rows(owner_client: Client, user: User, things: Things) -> None:
    def count(path: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            owner_client.get(f"/portal/{path}")
        return len(queries)

    pages = every_page(things)
    names = ("start", "deliveries", "live", "event", "event-types", "figures", "webhook")
    before = {name: count(pages[name]) for name in names}
    for number in range(5):
        make_things(user, f"Webhook {number}")

    assert {name: count(pages[name]) for name in names} == before


def test_static_files_are_small() -> None:
    folder = Path(webhooks.__file__).parent / "static" / "webhooks" / "portal"
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) < 30 * 1024


def test_pages_are_not_stored_and_allow_no_inline_code(
    client: Client, user: User, things: Things, open_session: Open
) -> None:
    start = open_session(user)
    for path in every_page(things).values():
        answer = client.get(start + path)
        policy = answer["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert answer["Cache-Control"] == "no-store"
        assert answer["Referrer-Policy"] == "no-referrer"
        assert b"<style" not in answer.content
        assert b" style=" not in answer.content
        assert b" onclick" not in answer.content


def test_only_the_allowed_pages_may_frame_a_session(
    client: Client, user: User, things: Things, open_session: Open, settings: Any
) -> None:
    start = open_session(user)
    answer = client.get(start)
    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
    assert answer["X-Frame-Options"] == "DENY"

    settings.WEBHOOKS_PORTAL_FRAME_ANCESTORS = ["https://app.example.com"]
    answer = client.get(start)
    assert "frame-ancestors https://app.example.com" in answer["Content-Security-Policy"]
    assert "X-Frame-Options" not in answer

    client.force_login(user)
    answer = client.get("/portal/")
    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
    assert answer["X-Frame-Options"] == "DENY"


def test_session_needs_no_cookie(user: User, things: Things, open_session: Open) -> None:
    start = open_session(user, "manage")
    client = Client(enforce_csrf_checks=True)

    page = client.get(start)
    saved = client.post(f"{start}delivery/{things.delivery.public_id}/resend/")

    assert page.cookies == {}
    assert saved.status_code == 302
    assert saved.cookies == {}


def test_signed_in_owner_is_guarded_against_forged_requests(user: User, things: Things) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)

    answer = client.post(f"/portal/delivery/{things.delivery.public_id}/resend/")

    assert answer.status_code == 403


def test_brand_comes_from_the_settings(owner_client: Client, settings: Any) -> None:
    settings.WEBHOOKS_PORTAL_NAME = "Acme hooks"
    settings.WEBHOOKS_PORTAL_LOGO = "/static/acme.svg"
    settings.WEBHOOKS_PORTAL_COLOR_SCHEME = "dark"
    settings.WEBHOOKS_PORTAL_ACCENT = "#ffcc00"

    page = owner_client.get("/portal/").content.decode()

    assert "Acme hooks" in page
    assert 'src="/static/acme.svg"' in page
    assert 'data-scheme="dark"' in page
    style = owner_client.get("/portal/brand.css").content.decode()
    assert "--accent: #ffcc00" in style
    # On yellow only black can be read.
    assert "--on-accent: #000000" in style
