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


FORGET_SQL = """
UPDATE webhooks_delivery
   SET status = 'SENDING', attempt_count = 0, finished_at = NULL, delivered_at = NULL,
       claimed_by = (SELECT id FROM webhooks_workerheartbeat)
"""
CUT_RECORDER_SQL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND query LIKE '%beat_at%' AND pid <> pg_backend_pid()
"""


def test_result_that_a_lost_server_had_confirmed_is_sent_again(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    with running_engine(), another_connection() as other:
        other.autocommit = True
        trigger(user, 1)
        wait_until(lambda: statuses(user) == {"SUCCESS"}, 60)
        # The claim had reached the standby, the result had not; only the connection that writes
        # results finds out later than the look at what is marked with the worker's id.
        other.execute("DELETE FROM webhooks_attempt")
        other.execute(FORGET_SQL)
        wait_until(lambda: other.execute(CUT_RECORDER_SQL).rowcount > 0, 10)

        wait_until(lambda: statuses(user) == {"SUCCESS"}, 20)

    assert len(receiver.requests) == 2


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
