"""Rows on their way back unsent: none is forgotten, and nobody waits for them."""

from collections.abc import Callable
from concurrent.futures import Future
from uuid import UUID

import pytest

from projects.models import User
from tests.webhooks.dispatch.test_one_tenant import locked, running_engine, statuses
from tests.webhooks.history import trigger
from tests.workers import wait_until
from webhooks.dispatch import take
from webhooks.dispatch.release import release
from webhooks.dispatch.returns import SECOND_LOOK_SECONDS, ReturnBatch, Returns
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook
from webhooks.workbench.receiver import HttpReceiver

MakeWebhook = Callable[..., Webhook]


@pytest.mark.django_db(transaction=True)
def test_row_that_is_locked_when_a_claim_gives_it_back_is_given_back_later(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    trigger(user, 2)
    given_back: list[int] = []

    def release_while_locked(worker_id: UUID, ids: list[UUID]) -> list[UUID]:
        given_back.append(1)
        with locked("webhooks_delivery"):
            return release(worker_id, ids)

    # So small that only one payload of the two fits.
    size = len(bytes(Delivery.objects.all()[0].event.payload))
    monkeypatch.setattr(take, "MAX_CLAIM_BYTES", size + 1)
    monkeypatch.setattr(take, "release", release_while_locked)
    with running_engine():
        wait_until(lambda: bool(given_back))
        monkeypatch.undo()
        wait_until(lambda: statuses(user) == {"SUCCESS"})


def test_desk_that_waits_for_a_claim_to_end_does_not_keep_the_loop_awake() -> None:
    returns = Returns(lambda *_: pytest.fail("too early"), new_id())
    returns.has_lost_track = True
    returns.order(1000.0, list, may_look=False)
    assert returns.due_at(may_look=False) == float("inf")
    assert returns.due_at(may_look=True) <= 1000.0


def test_claim_that_commits_late_is_found_by_a_second_look() -> None:
    """Its connection broke while it waited in Postgres: the first look sees none of its rows."""
    batches: list[ReturnBatch] = []

    def submit(worker_id: UUID, batch: ReturnBatch) -> Future[list[UUID]]:
        batches.append(batch)
        future: Future[list[UUID]] = Future()
        future.set_result([])
        return future

    def proceed(now: float) -> None:
        returns.order(now, list, may_look=True)
        returns.collect(now)

    returns = Returns(submit, new_id())
    returns.has_lost_track = True
    proceed(1000.0)
    assert [batch.held for batch in batches] == [[]]
    assert not returns
    assert returns.due_at(may_look=False) == float("inf")
    assert returns.due_at(may_look=True) == 1000.0 + SECOND_LOOK_SECONDS

    proceed(1005.0)
    assert len(batches) == 1
    proceed(1010.0)

    assert [batch.held for batch in batches] == [[], []]
    assert returns.due_at(may_look=True) == float("inf")
