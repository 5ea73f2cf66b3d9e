"""One tenant's trouble is his own (invariant 15): locks, dead index entries, backlogs, slow receivers."""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.utils import timezone

from projects.models import User
from tests.concurrency import another_connection, calls_of, in_thread
from tests.webhooks.history import trigger
from tests.workers import wait_until
from webhooks.dispatch import desks, discovery, take
from webhooks.dispatch.claims import Claims
from webhooks.dispatch.engine import Engine, run_until_idle
from webhooks.dispatch.flight import Flight, Sent
from webhooks.dispatch.release import release
from webhooks.ids import new_id
from webhooks.models import Attempt, Delivery, SigningSecret, Webhook, WorkerHeartbeat
from webhooks.postgres.sql import PLANNER_SQL
from webhooks.registry.switch import disable, enable
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

MakeWebhook = Callable[..., Webhook]


@pytest.fixture
def troubled(user: User, make_webhook: MakeWebhook) -> Iterator[HttpReceiver]:
    """The receiver of a tenant whose row somebody locks."""
    with HttpReceiver() as receiver:
        make_webhook(url=receiver.url, events=["project.deleted"])
        yield receiver


@pytest.fixture
def neighbour(other_user: User, make_webhook: MakeWebhook, receiver: HttpReceiver) -> HttpReceiver:
    """The receiver of another tenant."""
    make_webhook(owner=other_user, url=receiver.url, events=["project.deleted"])
    return receiver


@contextmanager
def running_engine() -> Iterator[Engine]:
    engine = Engine()
    thread = in_thread(engine.run)
    try:
        yield engine
    finally:
        engine.stop()
        thread.join()


@contextmanager
def locked(table: str, condition: str = "true") -> Iterator[None]:
    """Keep rows of a table locked by a stranger's transaction until the block ends."""
    with another_connection() as other:
        other.execute(f"SELECT FROM {table} WHERE {condition} FOR UPDATE")
        yield
        other.rollback()


def statuses(user: User) -> set[str]:
    return set(Delivery.objects.filter(owner_id=user.id).values_list("status", flat=True))


def test_delivery_that_a_stranger_locked_holds_up_no_other_tenant(
    user: User, other_user: User, troubled: HttpReceiver, neighbour: HttpReceiver
) -> None:
    troubled.behaviour = Behaviour(delay_seconds=0.3)
    trigger(user, 3)
    with running_engine():
        troubled.wait_for(3)
        first = Delivery.objects.filter(owner_id=user.id).first()
        assert first is not None
        with locked("webhooks_delivery", f"id = '{first.id}'"):
            for count in range(1, 21):
                trigger(other_user, 1)
                neighbour.wait_for(count)
            wait_until(lambda: statuses(other_user) == {"SUCCESS"})
            # The batch-mates of the locked row are written, too.
            wait_until(lambda: Attempt.objects.filter(delivery__owner_id=user.id).count() == 2)
        wait_until(lambda: statuses(user) == {"SUCCESS"})

    assert len(troubled.requests) == 3
    assert Attempt.objects.filter(delivery=first).count() == 1


@pytest.mark.parametrize("code", [410, 429])
def test_what_a_response_says_of_a_webhook_that_a_stranger_locked_is_not_lost(
    user: User, other_user: User, troubled: HttpReceiver, neighbour: HttpReceiver, code: int
) -> None:
    troubled.behaviour = Behaviour(status=code, headers=(("Retry-After", "600"),))
    webhook = Webhook.objects.get(owner=user)
    with running_engine():
        with locked("webhooks_webhook", f"id = '{webhook.id}'"):
            trigger(user, 1)
            troubled.wait_for(1)
            for count in range(1, 11):
                trigger(other_user, 1)
                neighbour.wait_for(count)
            wait_until(lambda: statuses(other_user) == {"SUCCESS"})
            wait_until(lambda: Attempt.objects.filter(delivery__owner_id=user.id).count() == 1)
            webhook.refresh_from_db()
            assert (webhook.active, webhook.held_until) == (True, None)

        def is_told() -> bool:
            webhook.refresh_from_db()
            return not webhook.active if code == 410 else webhook.held_until is not None

        wait_until(is_told)

    assert webhook.breaker_failures == 1


@pytest.mark.parametrize(
    ("table", "condition"),
    [
        ("webhooks_event", "owner_id = %s"),
        ("webhooks_webhook", "owner_id = %s"),
        ("projects_user", "id = %s"),
        ("webhooks_signingsecret", "webhook_id IN (SELECT id FROM webhooks_webhook WHERE owner_id = %s)"),
    ],
)  # fmt: skip
def test_no_other_tenant_waits_whatever_row_a_stranger_locked(
    user: User,
    other_user: User,
    troubled: HttpReceiver,
    neighbour: HttpReceiver,
    table: str,
    condition: str,
) -> None:
    Webhook.objects.filter(owner=user).update(rate_limit=100)
    trigger(user, 5)
    with running_engine(), locked(table, condition.replace("%s", f"'{user.id}'")):
        for count in range(1, 11):
            trigger(other_user, 1)
            neighbour.wait_for(count)
        wait_until(lambda: statuses(other_user) == {"SUCCESS"})


def test_row_that_is_given_back_while_a_stranger_has_locked_it_comes_back_later(
    user: User, troubled: HttpReceiver
) -> None:
    trigger(user, 2)
    worker = new_id()
    Delivery.objects.update(status="SENDING", claimed_by=worker)
    first, second = Delivery.objects.values_list("id", flat=True)

    with locked("webhooks_delivery", f"id = '{first}'"):
        assert release(worker, [first, second]) == [first]

    assert Delivery.objects.get(id=second).claimed_by is None
    assert release(worker, [first]) == []
    assert set(Delivery.objects.values_list("status", "claimed_by")) == {("PENDING", None)}


def buffers(sql: str, parameters: Mapping[str, Any]) -> int:
    """Return how many pages a statement looks at."""
    with connection.cursor() as cursor:
        cursor.execute(PLANNER_SQL)
        cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + sql, parameters)
        (plan,) = cursor.fetchone()
        cursor.execute("RESET ALL")
    (root,) = json.loads(plan) if isinstance(plan, str) else plan
    return int(root["Plan"]["Shared Hit Blocks"] + root["Plan"]["Shared Read Blocks"])


PAGES_OF_8_CLAIMED = 300
"""What it may take to find eight rows and to change them in all their indexes."""


def claim_of(webhook: Webhook, low: float) -> dict[str, Any]:
    return {
        "owners": [webhook.owner_id],
        "webhooks": [webhook.id],
        "counts": [8],
        "lows": [low],
        "limit": 8,
        "bytes": take.MAX_CLAIM_BYTES,
        "worker": registered(),
    }


def registered() -> UUID:
    """A worker that claims: one that is not registered takes nothing and looks at nothing."""
    return WorkerHeartbeat.objects.create(host="here", pid=1).id


INSERT_SQL = """
INSERT INTO webhooks_delivery
       (id, event_id, webhook_id, owner_id, event_type, status, attempt_count, round,
        attempts_before_round, is_suspect, crash_count, failure_kind, error, next_attempt_at,
        finished_at, epoch, order_key)
SELECT gen_random_uuid(), gen_random_uuid(), %(webhook)s, %(owner)s, 'project.deleted', 'PENDING',
       0, 1, 0, false, 0, '', '', clock_timestamp() + make_interval(secs => %(due)s), NULL,
       CASE WHEN %(ordered)s THEN 1 END, CASE WHEN %(ordered)s THEN 1 END
  FROM generate_series(1, %(count)s)
"""


def insert(webhook: Webhook, count: int, *, due_seconds: float = 0, ordered: bool = False) -> None:
    """Store deliveries without events: to be waited for, not to be sent."""
    parameters = {
        "webhook": webhook.id, "owner": webhook.owner_id, "count": count, "due": due_seconds,
        "ordered": ordered,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(INSERT_SQL, parameters)


def test_claim_beside_an_old_snapshot_does_not_walk_the_dead(
    user: User, make_webhook: MakeWebhook
) -> None:
    webhook = make_webhook(events=["project.deleted"])
    with another_connection() as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")
        insert(webhook, 20_000, due_seconds=-60)
        Delivery.objects.update(status="SUCCESS", finished_at=timezone.now())
        insert(webhook, 8)
        low = timezone.now().timestamp() - 1

        looked = buffers(discovery.LOOK_SQL, {"seconds": 2.0, "rows": discovery.LOOK_ROWS})
        from_low = buffers(take.CLAIM_SQL, claim_of(webhook, low))
        insert(webhook, 8)
        walked = buffers(take.CLAIM_SQL, claim_of(webhook, float("-inf")))

    assert walked > 2 * PAGES_OF_8_CLAIMED
    assert from_low < PAGES_OF_8_CLAIMED
    assert looked < 60


def test_ordered_backlog_costs_its_neighbours_nothing(
    user: User, make_webhook: MakeWebhook
) -> None:
    ordered = make_webhook(events=["project.deleted"], ordered=True)
    plain = make_webhook(events=["project.deleted"])
    insert(ordered, 20_000, due_seconds=-60, ordered=True)
    insert(plain, 8)

    assert buffers(take.CLAIM_SQL, claim_of(plain, float("-inf"))) < PAGES_OF_8_CLAIMED
    assert buffers(take.CLAIM_SQL, claim_of(ordered, float("-inf"))) < 60
    assert buffers(discovery.LOOK_SQL, {"seconds": 2.0, "rows": discovery.LOOK_ROWS}) < 60
    runs = {"webhooks": [ordered.id], "counts": [64], "bytes": 10**6, "worker": registered()}
    assert buffers(take.CLAIM_RUNS_SQL, runs) < 64 / 8 * PAGES_OF_8_CLAIMED


def test_claims_do_not_depend_on_statistics(user: User, make_webhook: MakeWebhook) -> None:
    """Red with a worker that may sort: one row of each of many webhooks is all that Postgres knows."""
    webhooks = [make_webhook(events=["project.deleted"]) for _ in range(90)]
    for webhook in webhooks:
        insert(webhook, 1, ordered=True)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE webhooks_delivery")
    Delivery.objects.all().delete()
    insert(webhooks[0], 20_000, due_seconds=-60, ordered=True)

    runs = {"webhooks": [webhooks[0].id], "counts": [8], "bytes": 10**6, "worker": registered()}
    assert buffers(take.CLAIM_RUNS_SQL, runs) < PAGES_OF_8_CLAIMED
    insert(webhooks[1], 20_000, due_seconds=-60)
    assert buffers(take.CLAIM_SQL, claim_of(webhooks[1], float("-inf"))) < PAGES_OF_8_CLAIMED
    assert buffers(discovery.LOOK_SQL, {"seconds": 120.0, "rows": discovery.LOOK_ROWS}) < 300
    for sql in (discovery.SURVEY_SQL, discovery.SURVEY_ORDERED_SQL):
        after = {"after_owner": UUID(int=0), "after_webhook": UUID(int=0), "webhooks": 512}
        assert buffers(sql, after) < 60


def test_idle_worker_looks_at_nothing_that_waits_for_later(
    user: User, make_webhook: MakeWebhook
) -> None:
    for _ in range(20):
        insert(make_webhook(events=["project.deleted"]), 100, due_seconds=3600)

    assert buffers(discovery.LOOK_SQL, {"seconds": 2.0, "rows": discovery.LOOK_ROWS}) < 60


def test_ordered_backlog_goes_out_in_order_with_few_claims(
    user: User,
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"], ordered=True)
    claims = calls_of(take, "take_runs", monkeypatch)
    events = [event.public_id for _ in range(4) for event in trigger(user, 75)]

    run_until_idle()

    assert [request.event_id for request in receiver.requests] == events
    assert len(claims) < 40


def test_failure_in_a_run_holds_all_later_rows_back(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"], ordered=True)
    events = [event.public_id for event in trigger(user, 20)]
    receiver.script(*[Behaviour()] * 5, Behaviour(status=500))

    run_until_idle()
    assert [request.event_id for request in receiver.requests] == events[:6]
    assert set(Delivery.objects.filter(finished_at=None).values_list("claimed_by")) == {(None,)}

    Delivery.objects.filter(status="RETRYING").update(next_attempt_at=timezone.now())
    run_until_idle()
    assert [request.event_id for request in receiver.requests] == events[:6] + events[5:]


def test_backlog_of_a_webhook_that_is_ordered_no_more_goes_out(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    webhook = make_webhook(url=receiver.url, events=["project.deleted"], ordered=True)
    trigger(user, 30)
    Webhook.objects.filter(id=webhook.id).update(order="none")

    run_until_idle()

    assert statuses(user) == {"SUCCESS"}


def test_webhooks_that_cannot_be_decrypted_cost_the_others_nothing(
    user: User,
    other_user: User,
    make_webhook: MakeWebhook,
    neighbour: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unreadable = [make_webhook(events=["project.deleted"]) for _ in range(30)]
    trigger(user, 20)
    secrets = SigningSecret.objects.filter(webhook__in=unreadable)
    secrets.update(value_encrypted=os.urandom(60))
    claims = calls_of(desks, "claim_due", monkeypatch)
    trigger(other_user, 200)

    with running_engine():
        neighbour.wait_for(200)
        wait_until(lambda: statuses(other_user) == {"SUCCESS"})

    # They were looked at once, and never claimed.
    assert statuses(user) == {"PENDING"}
    assert not Delivery.objects.filter(owner_id=user.id).exclude(claimed_by=None).exists()
    assert len(claims) < 200


def test_slow_receiver_gets_more_and_more_requests_at_a_time(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    receiver.behaviour = Behaviour(delay_seconds=0.3)
    most = 0
    begin = Flight.begin

    def counting(self: Flight, sent: Sent) -> None:
        nonlocal most
        begin(self, sent)
        most = max(most, self.count)

    monkeypatch.setattr(Flight, "begin", counting)
    trigger(user, 400)

    run_until_idle()

    assert len(receiver.requests) == 400
    assert most >= 64


def claims_of(engine: Engine) -> Claims:
    assert isinstance(engine.desks.claims, Claims)
    return engine.desks.claims


def end_surveys(engine: Engine) -> None:
    """Let there be no survey any more for as long as the test takes."""
    survey = claims_of(engine)._survey
    wait_until(lambda: survey.position is None)
    survey.next_at = float("inf")


def test_webhook_that_is_enabled_is_sent_to_at_once(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    webhook = make_webhook(url=receiver.url, events=["project.deleted"])
    trigger(user, 3)
    Delivery.objects.update(next_attempt_at=timezone.now() - timedelta(hours=1))
    disable(webhook)
    with running_engine() as engine:
        end_surveys(engine)
        enable(webhook)
        receiver.wait_for(3)


def test_event_of_a_long_transaction_is_found_when_it_ends(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    """It became due, as its row says, long before it can be seen."""
    make_webhook(url=receiver.url, events=["project.deleted"])
    with running_engine() as engine:
        end_surveys(engine)
        may_commit = threading.Event()

        def store() -> None:
            with transaction.atomic():
                trigger(user, 1)
                assert may_commit.wait(20)

        thread = in_thread(store)
        claims = claims_of(engine)
        wait_until(lambda: min(claims._writers, default=math.inf) < time.time() - 3)
        assert receiver.requests == []
        may_commit.set()
        receiver.wait_for(1)
        thread.join()
