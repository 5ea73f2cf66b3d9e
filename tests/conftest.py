"""Fixtures that most tests share."""

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.conf import settings
from redis.exceptions import RedisError

from projects.models import Project, User
from tests import flush
from webhooks import catalog, service
from webhooks.models import Webhook
from webhooks.outbox import valkey
from webhooks.postgres.shared import shared
from webhooks.tracking import coalescing
from webhooks.workbench.receiver import HttpReceiver

# Browser tests need the packages that `make e2e` installs.
collect_ignore = [] if importlib.util.find_spec("playwright") else ["e2e"]


def pytest_configure() -> None:
    # Django's default hasher takes a third of a second on purpose.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest test first, so that parallel processes end at about the same time."""
    items.sort(key=lambda item: "test_chaos.py" not in item.nodeid)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    with django_db_blocker.unblock():
        flush.keep()


@pytest.fixture(autouse=True)
def _own_data_fits(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Fail on invalid data of our own signal receivers, which production only logs."""
    yield
    if "unfit_data" not in request.keywords:
        logged = [*caplog.get_records("setup"), *caplog.get_records("call")]
        errors = [
            record
            for record in logged
            if record.name == coalescing.logger.name and record.levelno >= logging.ERROR
        ]
        assert [record.getMessage() for record in errors] == []


def has_envelope(sent: Any) -> bool:
    return isinstance(sent, dict) and sent.keys() == {"id", "type", "created", "data"}


@pytest.fixture(autouse=True)
def _received_payloads_fit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a receiver of the test run got an event whose data does not fit its schema."""
    if "other_shapes" in request.keywords:
        return
    close = HttpReceiver.close

    def close_and_look(receiver: HttpReceiver) -> None:
        close(receiver)
        for received in receiver.requests:
            if received.event_type in catalog.WEBHOOK_EVENTS:
                sent = json.loads(received.body)
                # Other forms have no data, or nothing else.
                if has_envelope(sent):
                    catalog.validate_data(received.event_type, sent["data"])

    monkeypatch.setattr(HttpReceiver, "close", close_and_look)


@pytest.fixture(autouse=True)
def _no_connection_stays() -> Iterator[None]:
    yield
    shared.close()


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


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


@pytest.fixture
def empty_valkey() -> Iterator[None]:
    """Delete the wake-up jobs and tokens of earlier tests; a token would suppress new wake-ups.

    Afterwards too: some tests spoil the queue.
    """
    valkey.connect(2).flushdb()
    yield
    with suppress(RedisError):
        valkey.connect(2).flushdb()
