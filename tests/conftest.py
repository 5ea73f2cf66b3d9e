"""Fixtures that most tests share."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from projects.models import Project, User
from webhooks import service
from webhooks.models import Webhook

# Browser tests need what `make e2e` installs.
collect_ignore = [] if importlib.util.find_spec("playwright") else ["e2e"]


@pytest.fixture
def user(db: None) -> User:
    user: User = User.objects.create(username="ada", email="ada@example.com", name="Ada Lovelace")
    return user


@pytest.fixture
def other_user(db: None) -> User:
    user: User = User.objects.create(username="bob", email="bob@example.com", name="Bob")
    return user


@pytest.fixture
def project(user: User) -> Project:
    return Project.objects.create(owner=user, name="Website", description="The public site")


@pytest.fixture
def make_webhook(user: User) -> Callable[..., Webhook]:
    def make(**fields: Any) -> Webhook:
        values: dict[str, Any] = {
            "name": "Orders",
            "url": "http://127.0.0.1:9/hook",
            "events": ["*"],
        }
        return service.create_webhook(fields.pop("owner", user), **(values | fields))

    return make
