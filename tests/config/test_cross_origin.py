"""Pages of other sites use the API only where the operator names their origin."""

from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

ORIGIN = "https://shop.example"
ASKED = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}


@pytest.fixture(autouse=True)
def _shared_with_one(settings: Settings) -> None:
    settings.WEBHOOKS_CORS_ORIGINS = [ORIGIN]


def cors(answer: Any) -> set[str]:
    return {name for name in answer.headers if name.startswith("Access-Control-")}


def test_preflight_of_a_known_origin_is_answered() -> None:
    answer = Client().options("/api/v1/webhooks/by-uid/a", headers=ASKED)

    assert answer.status_code == 204
    assert answer["Access-Control-Allow-Origin"] == ORIGIN
    assert "PUT" in answer["Access-Control-Allow-Methods"]
    assert "If-Match" in answer["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer


@pytest.mark.parametrize("method", ["get", "post"])
def test_answers_to_a_known_origin_may_be_read(db: None, method: str) -> None:
    answer = getattr(Client(), method)("/api/v1/events", headers={"Origin": ORIGIN})

    assert answer.status_code == 401
    assert answer["Access-Control-Allow-Origin"] == ORIGIN
    assert "ETag" in answer["Access-Control-Expose-Headers"]
    assert "Origin" in answer["Vary"]


@pytest.mark.parametrize("origin", ["https://evil.example", "https://shop.example.evil", "null"])
def test_others_are_told_nothing(db: None, origin: str) -> None:
    answers = [
        Client().options("/api/v1/events", headers=ASKED | {"Origin": origin}),
        Client().get("/api/v1/events", headers={"Origin": origin}),
    ]

    assert [cors(answer) for answer in answers] == [set(), set()]


def test_pages_are_not_shared(db: None) -> None:
    assert cors(Client().get("/admin/login/", headers={"Origin": ORIGIN})) == set()


def test_without_the_setting_nothing_is_shared(db: None, settings: Settings) -> None:
    settings.WEBHOOKS_CORS_ORIGINS = []

    assert cors(Client().get("/api/v1/events", headers={"Origin": ORIGIN})) == set()
