"""Who may have how many rows: fairness as arithmetic, then against the database."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import Settings

from projects.models import User
from tests.concurrency import another_connection, in_thread
from tests.webhooks.history import DELETED, trigger
from webhooks import service
from webhooks.dispatch import claim as claims
from webhooks.dispatch import discovery, life, take
from webhooks.dispatch.claim import ClaimOrder, claim_due
from webhooks.dispatch.discovery import Position
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.lanes import Lane
from webhooks.dispatch.share import allot
from webhooks.ids import new_id
from webhooks.models import Delivery, UnverifiedHost, Webhook

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def waiting(owner: UUID) -> Lane:
    return Lane(owner, new_id(), is_ordered=False)


def rooms(due: list[Lane], room: int) -> Mapping[UUID, int]:
    return {lane.webhook_id: room for lane in due}


def test_lone_webhook_gets_all_it_has_room_for() -> None:
    due = [waiting(new_id())]

    assert list(allot(due, rooms(due, 128), 512).values()) == [128]
    assert list(allot(due, rooms(due, 1000), 512).values()) == [1000]


def test_owner_with_many_webhooks_gets_no_more_than_one_with_few() -> None:
    big, small = new_id(), new_id()
    due = [waiting(big) for _ in range(100)] + [waiting(small)]

    counts = allot(due, rooms(due, 128), 64)

    assert sum(counts[lane.key] for lane in due[:100]) == 100
    assert counts[due[100].key] == 64


def test_everybody_gets_at_least_one() -> None:
    due = [waiting(new_id()) for _ in range(256)]

    assert set(allot(due, rooms(due, 8), 64).values()) == {1}


def test_nothing_due_is_nothing_dealt() -> None:
    assert allot([], {}, 64) == {}


def order(limit: int, room: int = 8, **changes: Any) -> ClaimOrder:
    """What a worker asks that remembers nothing; it is registered."""
    worker = new_id()
    life.register_worker(worker)
    return ClaimOrder(worker, limit, [], lambda *_: room, **{"back_seconds": 600.0} | changes)


def claim(limit: int, room: int = 8, **changes: Any) -> claims.Claim:
    return claim_due(order(limit, room, **changes), Endpoints())


def taken_by(made: claims.Claim) -> list[take.ClaimedDelivery]:
    runs = [delivery for rows in made.taken.runs.values() for delivery in rows]
    return [*made.taken.deliveries, *runs]


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook(events=["project.deleted"])


def test_claims_in_order_of_being_due_up_to_the_room(user: User, webhook: Webhook) -> None:
    trigger(user, 20)
    expected = list(
        Delivery.objects.order_by("next_attempt_at", "id").values_list("id", flat=True)[:8]
    )

    taken = claim(100)

    assert {delivery.id for delivery in taken_by(taken)} == set(expected)
    assert Delivery.objects.filter(status="SENDING").count() == 8
    assert [(fate.lane.webhook_id, fate.has_more) for fate in taken.fates] == [(webhook.id, True)]


def test_single_row_goes_to_the_webhook_of_the_lowest_rank(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    owners = [
        User.objects.create(username=name, email=f"{name}@example.com") for name in "abcdefghi"
    ]
    for owner in owners:
        make_webhook(owner=owner, events=["project.deleted"])
        trigger(owner, 3)
    best = make_webhook(events=["project.deleted"])
    trigger(user, 1)

    made = claim(1, rank=lambda webhook_id: int(webhook_id != best.id))

    assert [delivery.webhook_id for delivery in taken_by(made)] == [best.id]


@pytest.mark.django_db(transaction=True)
def test_since_when_an_ordered_webhook_waits_for_others_is_known(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    ordered = make_webhook(events=["project.deleted"], ordered=True)
    with another_connection() as other:
        other.execute("SELECT pg_current_xact_id()")
        trigger(user, 1)
        made = claim(10)

    due_at = Delivery.objects.get().next_attempt_at
    assert due_at is not None
    assert made.taken.waits_for_others == {ordered.id: pytest.approx(due_at.timestamp(), abs=1e-3)}
    (fate,) = made.fates
    assert fate.parked_until is not None
    assert fate.parked_until > made.database_time


def test_no_more_payloads_than_fit_into_memory_are_claimed_at_once(
    user: User, webhook: Webhook
) -> None:
    large = {**DELETED, "name": "x" * 250_000}
    for _ in range(7):
        service.trigger_events([service.Trigger("project.deleted", user, large)] * 10)

    taken = claim(100, room=100)

    most = take.MAX_CLAIM_BYTES
    size = len(taken_by(taken)[0].payload)
    assert sum(len(delivery.payload) for delivery in taken_by(taken)) > most - size
    assert len(taken_by(taken)) == most // size
    assert taken.taken.is_cut
    assert [fate.has_more for fate in taken.fates] == [True]
    statuses = Counter(Delivery.objects.values_list("status", flat=True))
    assert statuses == {"SENDING": most // size, "PENDING": 70 - most // size}


def test_what_waits_for_a_webhook_that_is_gone_is_cancelled(user: User, webhook: Webhook) -> None:
    trigger(user, 3)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM webhooks_signingsecret; DELETE FROM webhooks_webhook")

    taken = claim(100)

    assert taken_by(taken) == []
    assert [(fate.lane.webhook_id, fate.has_more) for fate in taken.fates] == [(webhook.id, False)]
    assert set(Delivery.objects.values_list("status", flat=True)) == {"CANCELLED"}


def test_quiet_owner_is_served_beside_a_flooded_one(
    user: User, other_user: User, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    for _ in range(9):
        make_webhook(events=["project.deleted"])
    quiet = make_webhook(owner=other_user, events=["project.deleted"])
    trigger(user, 100)
    trigger(other_user, 1)

    served = Counter(delivery.webhook_id for delivery in taken_by(claim(16)))

    assert served[quiet.id] == 1
    assert sum(served.values()) == 16


def test_repeated_claims_serve_everybody(user: User, make_webhook: Callable[..., Webhook]) -> None:
    webhooks = {make_webhook(events=["project.deleted"]).id for _ in range(20)}
    trigger(user, 3)
    served: Counter[UUID] = Counter()
    for _ in range(30):
        served.update(delivery.webhook_id for delivery in taken_by(claim(7)))

    assert served == dict.fromkeys(webhooks, 3)


def test_more_webhooks_than_one_step_of_a_survey_visits(
    user: User, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "STEP_WEBHOOKS", 4)
    for _ in range(10):
        make_webhook(events=["project.deleted"])
    for _ in range(3):
        make_webhook(events=["project.deleted"], ordered=True)
    trigger(user, 1)
    position: Position | None = discovery.FIRST_POSITION
    sizes = []
    while position is not None:
        step = discovery.survey(position)
        sizes.append((position.is_ordered, len(step.lanes)))
        position = step.next

    assert sizes == [(False, 4), (False, 4), (False, 2), (True, 3)]


def test_more_webhooks_than_one_claim_serves(
    user: User, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LANES_PER_CLAIM", 4)
    for _ in range(10):
        make_webhook(events=["project.deleted"])
    trigger(user, 1)

    taken = claim(100)

    assert (len(taken_by(taken)), len(taken.found)) == (4, 6)
    assert not taken.is_empty


def test_worker_declared_dead_claims_nothing(user: User, webhook: Webhook) -> None:
    trigger(user, 3)

    taken = claim_due(ClaimOrder(new_id(), 10, [], lambda *_: 8), Endpoints())

    assert taken_by(taken) == []
    assert set(Delivery.objects.values_list("status", flat=True)) == {"PENDING"}


def test_row_that_is_not_due_yet_costs_nothing(user: User, webhook: Webhook) -> None:
    trigger(user, 1)
    Delivery.objects.update(next_attempt_at=datetime(2099, 1, 1, tzinfo=UTC))

    taken = claim(100, survey_from=discovery.FIRST_POSITION)

    assert (taken_by(taken), taken.fates, taken.found) == ([], [], [])
    assert taken.is_empty


def test_rate_limit_bounds_the_claim_and_says_when_to_come_back(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"], rate_limit=5)
    trigger(user, 20)

    first, second = claim(100), claim(100)

    assert (len(taken_by(first)), len(taken_by(second))) == (5, 0)
    for made in (first, second):
        (fate,) = made.fates
        assert fate.parked_until is not None
        assert 0 < fate.parked_until - made.database_time <= 0.25


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("ordered", [False, True])
def test_unverified_webhooks_of_a_host_share_its_cap(
    user: User,
    other_user: User,
    make_webhook: Callable[..., Webhook],
    settings: Settings,
    ordered: bool,
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = "advise"
    settings.WEBHOOKS_UNVERIFIED_REQUESTS_PER_SECOND = 5
    capped = [
        make_webhook(
            owner=owner,
            events=["project.deleted"],
            url=f"http://127.0.0.1:{port}/",
            ordered=ordered,
        )
        for owner, port in ((user, 8000), (user, 8080), (other_user, 8000))
    ]
    verified = make_webhook(events=["project.deleted"], url="http://127.0.0.1:9/verified")
    elsewhere = make_webhook(events=["project.deleted"], url="http://127.0.0.2:9/")
    Webhook.objects.filter(pk=verified.pk).update(verified=True)
    trigger(user, 8)
    trigger(other_user, 8)

    first, second = claim(100, room=6), claim(100, room=6)

    counts = Counter(delivery.webhook_id for delivery in taken_by(first))
    assert sum(counts[webhook.pk] for webhook in capped) == 5
    assert all(counts[webhook.pk] for webhook in capped)
    assert (counts[verified.pk], counts[elsewhere.pk]) == (6, 5)
    later = {delivery.webhook_id for delivery in taken_by(second)}
    assert later.isdisjoint([elsewhere.pk, *(webhook.pk for webhook in capped)])
    if not ordered:
        # They come back one after the other.
        waits = [
            fate.parked_until - second.database_time
            for fate in second.fates
            if fate.lane.webhook_id in {webhook.pk for webhook in capped} and fate.parked_until
        ]
        assert sorted(round(wait - min(waits), 3) for wait in waits) == [0.0, 0.2, 0.4]
        assert 0 < min(waits) <= 0.2
    assert all(row.attempt_count == 0 for row in Delivery.objects.all())


@pytest.mark.parametrize(("proof", "cap"), [("off", 5), ("advise", 0)])
def test_there_is_no_cap_without_proofs_or_with_zero(
    user: User, make_webhook: Callable[..., Webhook], settings: Settings, proof: str, cap: int
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = proof
    settings.WEBHOOKS_UNVERIFIED_REQUESTS_PER_SECOND = cap
    make_webhook(events=["project.deleted"])
    trigger(user, 20)

    assert len(taken_by(claim(100, room=50))) == 20
    assert not UnverifiedHost.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_host_that_another_worker_has_is_left_to_it(
    user: User, make_webhook: Callable[..., Webhook], settings: Settings
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = "advise"
    make_webhook(events=["project.deleted"])
    trigger(user, 3)
    UnverifiedHost.objects.create(host="127.0.0.1", ready_at=NOW)
    with another_connection() as other:
        other.execute("BEGIN; SELECT * FROM webhooks_unverifiedhost FOR UPDATE")
        made = claim(100)
        assert (taken_by(made), len(made.fates)) == ([], 1)
        other.execute("COMMIT")
    assert len(taken_by(claim(100))) == 3


@pytest.mark.django_db(transaction=True)
def test_ordered_webhook_gets_its_first_rows_in_order_and_nothing_else(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"], ordered=True)
    trigger(user, 3)
    first, second, third = Delivery.objects.order_by("order_key", "id").values_list("id", flat=True)

    assert [d.id for d in taken_by(claim(100, room=1))] == [first]
    # Whoever comes next finds the first row taken, and goes away.
    assert taken_by(claim(100)) == []

    # A failing head holds the others back.
    Delivery.objects.filter(id=first).update(
        status="RETRYING", claimed_by=None, next_attempt_at=datetime(2099, 1, 1, tzinfo=UTC)
    )
    assert taken_by(claim(100)) == []

    Delivery.objects.filter(id=first).update(status="FAILED", finished_at=NOW)
    assert [d.id for d in taken_by(claim(100))] == [second, third]


@pytest.mark.django_db(transaction=True)
def test_run_ends_before_a_row_that_may_not_go(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"], ordered=True)
    trigger(user, 5)
    ids = list(Delivery.objects.order_by("order_key", "id").values_list("id", flat=True))
    Delivery.objects.filter(id=ids[3]).update(is_suspect=True)

    assert [d.id for d in taken_by(claim(100))] == ids[:3]
    assert taken_by(claim(100)) == []


@pytest.mark.django_db(transaction=True)
def test_nothing_goes_behind_a_row_that_somebody_has_locked(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"], ordered=True)
    trigger(user, 4)
    ids = list(Delivery.objects.order_by("order_key", "id").values_list("id", flat=True))

    with another_connection() as other:
        other.execute("SELECT FROM webhooks_delivery WHERE id = %s FOR UPDATE", [ids[1]])
        assert [d.id for d in taken_by(claim(100))] == ids[:1]
        other.rollback()

    marked = Delivery.objects.exclude(claimed_by=None).values_list("id", flat=True)
    assert list(marked) == ids[:1]


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

    sent = [d.id for d in taken_by(claim(100))]
    Delivery.objects.filter(id__in=sent).update(status="SUCCESS", finished_at=NOW)
    may_commit.set()
    other.join()
    sent += [d.id for d in taken_by(claim(100))]

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

    assert last.id in {delivery.id for delivery in taken_by(claim(100))}


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

    survey = {"after_owner": UUID(int=0), "after_webhook": UUID(int=0), "webhooks": 256}
    look = {"seconds": 600.0, "rows": discovery.LOOK_ROWS}
    for sql, parameters in (
        (discovery.SURVEY_SQL, survey),
        (discovery.SURVEY_ORDERED_SQL, survey),
        (discovery.LOOK_SQL, look),
    ):
        assert "webhooks_delivery" not in explain(sql, parameters)
    wanted = {
        "owners": [user.id],
        "webhooks": [webhook.id],
        "counts": [64],
        "lows": [0.0],
        "limit": 64,
        "bytes": take.MAX_CLAIM_BYTES,
        "worker": new_id(),
    }
    read_whole = explain(take.CLAIM_SQL, wanted)
    assert not read_whole & {"webhooks_delivery", "webhooks_event", "Sort", "Incremental Sort"}
    assert len(taken_by(claim(64, room=64))) == 64


@pytest.mark.django_db
def test_no_index_names_what_a_claim_changes() -> None:
    """Postgres then need not touch the indexes (a HOT update)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexdef FROM pg_indexes WHERE tablename = 'webhooks_delivery'"
            " AND (indexdef LIKE '%%status%%' OR indexdef LIKE '%%claimed_by%%')"
        )
        assert cursor.fetchall() == []


def test_probe_that_the_clock_of_postgres_left_in_the_future_goes_out(
    user: User, webhook: Webhook
) -> None:
    trigger(user, 2)
    later = timezone.now() + timedelta(hours=1)
    Webhook.objects.update(breaker_state="open", breaker_failures=10, breaker_probe_at=later)

    assert len(taken_by(claim(10))) == 1
    assert taken_by(claim(10)) == []
