"""Who may have how many rows: fairness as arithmetic, then against the database."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from projects.models import User
from tests.concurrency import in_thread
from tests.webhooks.history import DELETED, trigger
from webhooks import service
from webhooks.dispatch import claim as claims
from webhooks.dispatch import life
from webhooks.dispatch.claim import Waiting, allot, claim_due
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def waiting(owner: UUID) -> Waiting:
    return Waiting(owner, new_id(), NOW, False, None, "closed", None)


def rooms(due: list[Waiting], room: int) -> Mapping[UUID, int]:
    return {one.webhook_id: room for one in due}


def test_lone_webhook_gets_all_it_has_room_for() -> None:
    due = [waiting(new_id())]

    assert list(allot(due, rooms(due, 128), 512).values()) == [128]
    assert list(allot(due, rooms(due, 1000), 512).values()) == [1000]


def test_owner_with_many_webhooks_gets_no_more_than_one_with_few() -> None:
    big, small = new_id(), new_id()
    due = [waiting(big) for _ in range(100)] + [waiting(small)]

    counts = allot(due, rooms(due, 128), 64)

    assert sum(counts[one.webhook_id] for one in due[:100]) == 100
    assert counts[due[100].webhook_id] == 64


def test_everybody_gets_at_least_one() -> None:
    due = [waiting(new_id()) for _ in range(256)]

    assert set(allot(due, rooms(due, 8), 64).values()) == {1}


def test_nothing_due_is_nothing_dealt() -> None:
    assert allot([], {}, 64) == {}


def claim(
    limit: int, room: int = 8, after: claims.Position = claims.START_OF_ROTATION
) -> claims.Claim:
    worker = new_id()
    life.register_worker(worker)
    return claim_due(worker, limit=limit, room_of=lambda *_: room, after=after)


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook(events=["project.deleted"])


def test_claims_in_order_of_being_due_up_to_the_room(user: User, webhook: Webhook) -> None:
    trigger(user, 20)
    expected = list(
        Delivery.objects.order_by("next_attempt_at", "id").values_list("id", flat=True)[:8]
    )

    taken = claim(100)

    assert {delivery.id for delivery in taken.deliveries} == set(expected)
    assert Delivery.objects.filter(status="SENDING").count() == 8
    assert taken.full == {webhook.id}


def test_no_more_payloads_than_fit_into_memory_are_claimed_at_once(
    user: User, webhook: Webhook
) -> None:
    large = {**DELETED, "name": "x" * 250_000}
    for _ in range(7):
        service.trigger_events([service.Trigger("project.deleted", user, large)] * 10)

    taken = claim(100, room=100)

    most = claims.MAX_CLAIM_BYTES
    size = len(taken.deliveries[0].payload)
    assert sum(len(delivery.payload) for delivery in taken.deliveries) > most - size
    assert len(taken.deliveries) == most // size
    assert taken.has_more
    statuses = Counter(Delivery.objects.values_list("status", flat=True))
    assert statuses == {"SENDING": most // size, "PENDING": 70 - most // size}


def test_what_waits_for_a_webhook_that_is_gone_is_cancelled(user: User, webhook: Webhook) -> None:
    trigger(user, 3)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM webhooks_signingsecret; DELETE FROM webhooks_webhook")

    taken = claim(100)

    assert (taken.deliveries, taken.deleted) == ([], [webhook.id])
    claims.cancel_deleted(taken.deleted)
    assert set(Delivery.objects.values_list("status", flat=True)) == {"CANCELLED"}


def test_quiet_owner_is_served_beside_a_flooded_one(
    user: User, other_user: User, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    for _ in range(9):
        make_webhook(events=["project.deleted"])
    quiet = make_webhook(owner=other_user, events=["project.deleted"])
    trigger(user, 100)
    trigger(other_user, 1)

    served = Counter(delivery.webhook_id for delivery in claim(16).deliveries)

    assert served[quiet.id] == 1
    assert sum(served.values()) == 16


def test_repeated_claims_serve_everybody(user: User, make_webhook: Callable[..., Webhook]) -> None:
    webhooks = {make_webhook(events=["project.deleted"]).id for _ in range(20)}
    trigger(user, 3)
    served: Counter[UUID] = Counter()
    for _ in range(30):
        served.update(delivery.webhook_id for delivery in claim(7).deliveries)

    assert served == dict.fromkeys(webhooks, 3)


def test_more_webhooks_than_one_claim_visits(
    user: User, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "WEBHOOKS_PER_CLAIM", 4)
    for _ in range(10):
        make_webhook(events=["project.deleted"])
    trigger(user, 1)
    position = claims.START_OF_ROTATION
    sizes = []
    for _ in range(3):
        taken = claim(100, after=position)
        position = taken.next_position
        sizes.append(len(taken.deliveries))

    assert sizes == [4, 4, 2]
    assert position == claims.START_OF_ROTATION


def test_worker_declared_dead_claims_nothing(user: User, webhook: Webhook) -> None:
    trigger(user, 3)

    taken = claim_due(new_id(), limit=10, room_of=lambda *_: 8)

    assert taken.deliveries == []
    assert set(Delivery.objects.values_list("status", flat=True)) == {"PENDING"}


def test_knows_when_the_next_row_is_due(user: User, webhook: Webhook) -> None:
    trigger(user, 1)
    Delivery.objects.update(next_attempt_at=datetime(2099, 1, 1, tzinfo=UTC))

    taken = claim(100)

    assert taken.deliveries == []
    assert taken.next_at == datetime(2099, 1, 1, tzinfo=UTC).timestamp()


def test_rate_limit_bounds_the_claim_and_says_when_to_come_back(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"], rate_limit=5)
    trigger(user, 20)

    first, second = claim(100), claim(100)

    assert (len(first.deliveries), len(second.deliveries)) == (5, 0)
    assert 0 < second.next_at - second.database_time <= 0.2


@pytest.mark.django_db(transaction=True)
def test_ordered_webhook_gets_its_head_and_nothing_else(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"], ordered=True)
    trigger(user, 3)
    first, second, _ = Delivery.objects.order_by("order_key", "id").values_list("id", flat=True)

    assert [d.id for d in claim(100).deliveries] == [first]
    assert claim(100).deliveries == []

    # A failing head holds the others back.
    Delivery.objects.filter(id=first).update(
        status="RETRYING", claimed_by=None, next_attempt_at=datetime(2099, 1, 1, tzinfo=UTC)
    )
    assert claim(100).deliveries == []

    Delivery.objects.filter(id=first).update(status="FAILED", finished_at=NOW)
    assert [d.id for d in claim(100).deliveries] == [second]


@pytest.mark.django_db(transaction=True)
def test_late_commit_never_comes_before_what_was_sent(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    """Of two transactions under way at once, the one with the smaller number of the sequence, but
    the greater id, commits last."""
    make_webhook(events=["project.deleted"], ordered=True)
    stored, may_commit = threading.Event(), threading.Event()

    def store_first_and_commit_last() -> None:
        with transaction.atomic():
            trigger(user, 1)
            stored.set()
            assert may_commit.wait(10)

    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
        other = in_thread(store_first_and_commit_last)
        assert stored.wait(10)
        trigger(user, 1)

    sent = [d.id for d in claim(100).deliveries]
    Delivery.objects.filter(id__in=sent).update(status="SUCCESS", finished_at=NOW)
    may_commit.set()
    other.join()
    sent += [d.id for d in claim(100).deliveries]

    in_order = Delivery.objects.order_by("order_key", "id").values_list("id", flat=True)
    assert sent == list(in_order)
    assert len(sent) == 2


@pytest.mark.django_db(transaction=True)
def test_redelivery_is_exempt_from_the_order(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"], ordered=True)
    trigger(user, 3)
    last = Delivery.objects.order_by("order_key", "id")[2]

    service.redeliver_one(last)

    assert last.id in {delivery.id for delivery in claim(100).deliveries}


def explain(sql: str, parameters: Mapping[str, Any]) -> set[str]:
    """Return the names of the tables that a plan reads from end to end."""
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN (FORMAT JSON) " + sql, parameters)
        (plan,) = cursor.fetchone()
    plan = json.loads(plan) if isinstance(plan, str) else plan
    found: set[str] = set()
    todo = [plan[0]["Plan"]]
    while todo:
        node = todo.pop()
        todo += node.get("Plans", [])
        if node["Node Type"] in ("Seq Scan", "Sort", "Incremental Sort", "Hash Join"):
            found.add(node.get("Relation Name", node["Node Type"]))
    return found


@pytest.mark.parametrize("count", [5_000, pytest.param(1_000_000, marks=pytest.mark.full)])
def test_claim_is_led_by_its_indexes(user: User, webhook: Webhook, count: int) -> None:
    trigger(user, 1)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO webhooks_event (id, type, owner_id, payload, fanout_count, object_reference)
            SELECT gen_random_uuid(), 'project.deleted', %(owner)s, '{}', 1, ''
              FROM generate_series(1, %(count)s);
            INSERT INTO webhooks_delivery
                   (id, event_id, webhook_id, owner_id, event_type, status, attempt_count, round,
                    attempts_before_round, is_suspect, crash_count, failure_kind, error)
            SELECT gen_random_uuid(), e.id, %(webhook)s, %(owner)s, 'project.deleted', 'PENDING', 0,
                   1, 0, false, 0, '', ''
              FROM webhooks_event e
                ON CONFLICT DO NOTHING;
            """,
            {"owner": user.id, "webhook": webhook.id, "count": count},
        )
        cursor.execute("ANALYZE webhooks_delivery, webhooks_event")

    visit = {"after_owner": UUID(int=0), "after_webhook": UUID(int=0), "webhooks": 256}
    assert "webhooks_delivery" not in explain(claims.VISIT_SQL, visit)
    wanted = {
        "owners": [user.id],
        "webhooks": [webhook.id],
        "counts": [64],
        "ordered": [False],
        "limit": 64,
        "bytes": claims.MAX_CLAIM_BYTES,
        "worker": new_id(),
    }
    read_whole = explain(claims.CLAIM_SQL + claims.TAKE_SQL, wanted)
    assert not read_whole & {"webhooks_delivery", "webhooks_event", "Sort", "Incremental Sort"}
    assert len(claim(64, room=64).deliveries) == 64
