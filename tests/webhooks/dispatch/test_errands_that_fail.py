"""Work on a database thread that fails, before or after Postgres has committed it, loses nothing."""

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import OperationalError

from projects.models import User
from tests.concurrency import another_connection
from tests.webhooks.dispatch.test_one_tenant import running_engine, statuses
from tests.webhooks.history import trigger
from tests.workers import wait_for_heartbeats, wait_until
from webhooks.dispatch import desks
from webhooks.dispatch.endpoints import Endpoints
from webhooks.models import Delivery, Webhook
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

MakeWebhook = Callable[..., Webhook]
COUNT = 150


def failing(work: Callable[..., Any], chance: random.Random) -> Callable[..., Any]:
    """Fail now and then, before the work or after it."""

    def run(*args: Any) -> Any:
        if chance.random() < 0.15:
            raise OperationalError("before")
        done = work(*args)
        if chance.random() < 0.15:
            raise RuntimeError("after")
        return done

    return run


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_fails_nothing_is_lost_or_stuck(
    user: User,
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
    ordered: bool,
    seed: int,
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"], ordered=ordered)
    events = [event.public_id for event in trigger(user, COUNT)]
    chance = random.Random(seed)
    for name in ("claim_due", "write", "give_back"):
        monkeypatch.setattr(desks, name, failing(getattr(desks, name), chance))
    load = failing(Endpoints.load, chance)
    monkeypatch.setattr(Endpoints, "load", load)
    with running_engine():
        wait_until(lambda: statuses(user) == {"SUCCESS"}, 60)
    received = [request.event_id for request in receiver.requests]
    assert set(received) == set(events)
    if ordered:
        assert list(dict.fromkeys(received)) == events


def test_connections_that_are_cut_again_and_again_lose_nothing(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    events = {event.public_id for event in trigger(user, COUNT)}
    with running_engine(), another_connection() as other:
        other.autocommit = True
        # A worker that cannot say that it lives does not begin.
        wait_for_heartbeats(1)

        def is_over() -> bool:
            cut(other)
            return statuses(user) == {"SUCCESS"}

        wait_until(is_over, 60)
    assert {request.event_id for request in receiver.requests} == events
    assert not Delivery.objects.exclude(claimed_by=None).exists()


def cut(other: psycopg.Connection[Any]) -> None:
    if random.random() < 0.1:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'webhooks-worker%%' ORDER BY random() LIMIT 1"
        )
