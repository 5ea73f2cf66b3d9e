"""Clients of every kind, and throttles that are not in the way."""

import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from rest_framework.test import APIClient

from projects.models import Project, User
from tests.webhooks.api.matrix import World, make_world
from webhooks.api import authentication
from webhooks.doors import access, allowances
from webhooks.models import ApiToken, Webhook

ALL_SCOPES = ("read", "write", "trigger")

MakeClient = Callable[..., APIClient]


def authorization_of(client: APIClient) -> str:
    """Return the header that a client of make_client() sends."""
    return str(client._credentials["HTTP_AUTHORIZATION"])  # type: ignore[attr-defined]


def grant(user: User, *permissions: str) -> None:
    """Give a user these permissions and no others."""
    names = [permission.split(".") for permission in permissions]
    user.user_permissions.set(
        [Permission.objects.get(content_type__app_label=a, codename=c) for a, c in names]
    )


@pytest.fixture(autouse=True)
def _fresh_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of this process, of this test, within one minute and one hour."""
    counter = allowances.Counter()
    counter._silent_until = float("inf")
    monkeypatch.setattr(allowances, "counter", counter)
    clock = SimpleNamespace(time=lambda: 1_800_000_010.0, monotonic=time.monotonic)
    monkeypatch.setattr(allowances, "time", clock)


@pytest.fixture(autouse=True)
def _no_known_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests change tokens and users and look at once."""
    monkeypatch.setattr(authentication, "KNOWN_SECONDS", 0.0)


@pytest.fixture
def make_token() -> Callable[..., str]:
    def make(user: User, *scopes: str, **fields: Any) -> str:
        values: dict[str, Any] = {"name": "test", "lifetime": timedelta(days=1)}
        return ApiToken.objects.issue(user, scopes=scopes or ALL_SCOPES, **(values | fields))[1]

    return make


@pytest.fixture
def make_client(make_token: Callable[..., str]) -> MakeClient:
    def make(user: User | None, *scopes: str, **fields: Any) -> APIClient:
        client = APIClient()
        if user is not None:
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {make_token(user, *scopes, **fields)}")
        return client

    return make


@pytest.fixture
def client(user: User, make_client: MakeClient) -> APIClient:
    return make_client(user)


@pytest.fixture
def staff(db: None) -> User:
    user: User = User.objects.create(username="root", email="root@example.com", is_staff=True)
    grant(user, *(one for deed in access.DEEDS for one in deed.permissions))
    return user


@pytest.fixture
def world(user: User, project: Project, make_webhook: Callable[..., Webhook]) -> World:
    return make_world(user, project, make_webhook(timeout_seconds=1))
