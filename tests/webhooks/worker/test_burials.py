"""What a dead worker held is taken back, whoever has locked what (invariants 5 and 15)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from projects.models import User
from tests.concurrency import another_connection, in_thread
from tests.webhooks.claiming import claim_due
from tests.webhooks.history import succeeded, trigger
from webhooks.dispatch import life
from webhooks.dispatch.desks import Desks
from webhooks.dispatch.engine import Engine
from webhooks.dispatch.settle import settle
from webhooks.dispatch.suspects import ALONE
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook, WorkerHeartbeat
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    return make_webhook(url=receiver.url, events=["project.deleted"])


@pytest.fixture(autouse=True)
def _wait_for_nothing() -> Iterator[None]:
    """Whoever waits for a lock fails at once."""
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '20ms'")
    yield
    connection.close()


def new_worker(holds: int = 0) -> UUID:
    worker_id = new_id()
    life.register_worker(worker_id)
    claim = claim_due(worker_id, limit=100, room_of=lambda *_: holds)
    assert len(claim.deliveries) == holds
    return worker_id


def fall_silent(worker_id: UUID) -> None:
    long_ago = timezone.now() - timedelta(seconds=11)
    WorkerHeartbeat.objects.filter(id=worker_id).update(beat_at=long_ago)


def held_by(worker_id: UUID) -> int:
    return Delivery.objects.filter(claimed_by=worker_id).count()


@contextmanager
def transaction_of_a_stranger(sql: str, *parameters: Any) -> Iterator[psycopg.Connection[Any]]:
    """Another connection that has run a statement and does not commit before the block ends."""
    with another_connection() as other:
        other.execute(sql, parameters)
        yield other


def row_locked(row: Delivery | WorkerHeartbeat) -> Any:
    return transaction_of_a_stranger(
        f"SELECT FROM {row._meta.db_table} WHERE id = %s FOR UPDATE",
        row.pk,
    )


def test_row_that_somebody_locked_is_taken_back_once_it_is_free(user: User) -> None:
    trigger(user, 20)
    dead = new_worker(holds=20)
    fall_silent(dead)
    locked = Delivery.objects.all()[7]

    with row_locked(locked):
        assert life.reclaim_from_dead_workers() == 19
        assert life.reclaim_from_dead_workers() == 0
        assert list(Delivery.objects.exclude(claimed_by=None)) == [locked]
        # What is left belongs to nobody who could still send it.
        assert not life.beat(dead, 0)
    assert life.reclaim_from_dead_workers() == 1
    assert life.reclaim_from_dead_workers() == 0

    assert set(Delivery.objects.values_list("claimed_by", "is_suspect")) == {(None, True)}
    assert not WorkerHeartbeat.objects.exists()


def test_row_taken_back_late_is_punished_no_more_than_the_others(user: User) -> None:
    trigger(user, 20)
    dead = new_worker(holds=20)
    Delivery.objects.update(is_suspect=True, suspect_level=ALONE, crash_count=1)
    fall_silent(dead)

    with row_locked(Delivery.objects.all()[7]):
        life.reclaim_from_dead_workers()
    life.reclaim_from_dead_workers()

    assert set(Delivery.objects.values_list("crash_count", flat=True)) == {2}


def test_worker_that_ends_in_order_waits_for_no_lock(user: User) -> None:
    trigger(user, 3)
    ending = new_worker(holds=3)
    locked = Delivery.objects.all()[1]

    with row_locked(locked):
        life.unregister_worker(ending)
        assert list(Delivery.objects.exclude(claimed_by=None)) == [locked]
    # It need not fall silent first.
    assert life.reclaim_from_dead_workers() == 1

    assert not WorkerHeartbeat.objects.exists()
    # Nor did it die of anything.
    assert set(Delivery.objects.values_list("status", "claimed_by", "is_suspect")) == {
        ("PENDING", None, False)
    }


def test_worker_that_lost_track_gives_back_what_is_not_locked(
    user: User, receiver: HttpReceiver
) -> None:
    trigger(user, 4)
    engine = Engine()
    life.register_worker(engine.worker_id)
    claim_due(engine.worker_id, limit=4, room_of=lambda *_: 4)
    WorkerHeartbeat.objects.all().delete()
    engine.desks.returns.has_lost_track = True
    locked, *_ = Delivery.objects.all()

    with row_locked(locked):
        thread = in_thread(lambda: engine.run(until_idle=True))
        receiver.wait_for(3)
        assert held_by(engine.worker_id) >= 1
        thread.join(0.5)
        assert thread.is_alive()
    thread.join()

    assert len(receiver.requests) == 4
    assert set(Delivery.objects.values_list("status", flat=True)) == {"SUCCESS"}


def test_beat_while_its_heartbeat_is_locked_waits_for_nobody(user: User) -> None:
    worker = new_worker()

    with row_locked(WorkerHeartbeat.objects.get()):
        assert life.beat(worker, 0)
        fallen = WorkerHeartbeat.objects.get().beat_at
    assert life.beat(worker, 0)

    assert WorkerHeartbeat.objects.get().beat_at > fallen


def test_beat_beside_a_declaration_of_death_is_told_once_it_is_committed(user: User) -> None:
    worker = new_worker()
    fall_silent(worker)

    declare = "UPDATE webhooks_workerheartbeat SET declared_dead_at = clock_timestamp()"
    with transaction_of_a_stranger(declare):
        assert life.beat(worker, 0)
    assert not life.beat(worker, 0)

    assert WorkerHeartbeat.objects.get().declared_dead_at is not None


def test_worker_that_could_not_beat_for_a_lock_gets_the_time_to_beat(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger(user, 2)
    watch, now = life.Watch(), 1000.0
    monkeypatch.setattr("webhooks.dispatch.life.boottime", lambda: now)
    worker = new_worker(holds=1)
    heartbeat = WorkerHeartbeat.objects.get()
    dead = new_worker(holds=1)
    fall_silent(worker)
    fall_silent(dead)
    new_worker()

    with row_locked(heartbeat):
        # The other one was not hindered.
        assert watch.look() == 1
        assert (held_by(worker), held_by(dead)) == (1, 0)
    now += life.SILENCE_BEFORE_DEATH_SECONDS / 2 - 1
    assert watch.look() == 0
    assert life.beat(worker, 0)
    fall_silent(worker)
    now += 1
    assert watch.look() == 1


def test_worker_whose_beat_is_under_way_is_not_declared_dead(user: User) -> None:
    trigger(user, 1)
    worker = new_worker(holds=1)
    fall_silent(worker)

    beat = "UPDATE webhooks_workerheartbeat SET beat_at = clock_timestamp()"
    with transaction_of_a_stranger(beat):
        assert life.reclaim_from_dead_workers() == 0
    assert life.reclaim_from_dead_workers() == 0

    assert held_by(worker) == 1
    assert life.beat(worker, 0)


def test_claim_that_commits_after_the_death_of_its_worker_is_found(user: User) -> None:
    trigger(user, 2)
    worker = new_worker()
    fall_silent(worker)

    # As the claim does it: the heartbeat is locked first, then a row is taken.
    lock = "SELECT FROM webhooks_workerheartbeat FOR KEY SHARE"
    with transaction_of_a_stranger(lock) as late:
        late.execute(
            "UPDATE webhooks_delivery SET claimed_by = %s, status = 'SENDING' WHERE id = %s",
            [worker, Delivery.objects.all()[0].id],
        )
        assert life.reclaim_from_dead_workers() == 0
        assert WorkerHeartbeat.objects.exists()
    assert life.reclaim_from_dead_workers() == 1

    assert not WorkerHeartbeat.objects.exists()
    assert held_by(worker) == 0


def test_worker_that_was_declared_dead_claims_and_settles_nothing(user: User) -> None:
    trigger(user, 2)
    worker = new_worker(holds=1)
    (held,) = Delivery.objects.filter(claimed_by=worker)

    with row_locked(held):
        life.declare_dead([worker])
        life.take_back()
        claim = claim_due(worker, limit=10, room_of=lambda *_: 10)
    life.take_back()

    assert claim.deliveries == []
    assert settle(worker, [succeeded(held.id)]) == (set(), set(), set())


@contextmanager
def plain_role() -> Iterator[None]:
    """This connection is of a role that may not end those of others."""
    with connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS plain")
        cursor.execute("CREATE ROLE plain")
        cursor.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
        cursor.execute("SET ROLE plain")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")
            cursor.execute("DROP OWNED BY plain")
            cursor.execute("DROP ROLE plain")


def test_connections_that_may_not_be_ended_stop_no_burial(
    user: User, caplog: pytest.LogCaptureFixture
) -> None:
    trigger(user, 5)
    dead = new_worker(holds=5)
    fall_silent(dead)
    locked = Delivery.objects.all()[2]

    with row_locked(locked) as frozen, plain_role():
        name = life.connection_name(dead)
        frozen.execute("SELECT set_config('application_name', %s, false)", [name])
        assert life.reclaim_from_dead_workers() == 4
    assert life.reclaim_from_dead_workers() == 1

    assert "could not be terminated" in caplog.text
    assert not WorkerHeartbeat.objects.exists()


def test_connections_of_a_dead_worker_are_ended_with_what_they_locked(user: User) -> None:
    trigger(user, 5)
    dead = new_worker(holds=5)
    fall_silent(dead)

    with pytest.raises(psycopg.OperationalError), row_locked(Delivery.objects.all()[2]) as frozen:
        name = life.connection_name(dead)
        frozen.execute("SELECT set_config('application_name', %s, false)", [name])
        assert life.reclaim_from_dead_workers() == 5
        frozen.execute("SELECT 1")


def test_watch_lets_others_beat_after_a_gap_of_its_own(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger(user, 1)
    watch, now = life.Watch(), 1000.0
    monkeypatch.setattr("webhooks.dispatch.life.boottime", lambda: now)
    watch.look()
    fall_silent(new_worker(holds=1))
    new_worker()

    # Postgres was away, for all of them.
    now += life.SILENCE_BEFORE_DEATH_SECONDS
    assert watch.look() == 0
    now += life.SILENCE_BEFORE_DEATH_SECONDS / 2
    assert watch.look() == 1


def test_watch_lets_all_beat_after_none_of_them_could(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a full disk: Postgres answers to looks and refuses beats and new connections."""
    trigger(user, 2)
    watch, now = life.Watch(), 1000.0
    monkeypatch.setattr("webhooks.dispatch.life.boottime", lambda: now)
    alive, dead = new_worker(holds=1), new_worker(holds=1)
    watch.look()
    for worker in (alive, dead):
        fall_silent(worker)

    now += 1
    assert watch.look() == 0
    assert life.beat(alive, 0)
    now += life.SILENCE_BEFORE_DEATH_SECONDS / 2 - 0.1
    assert watch.look() == 0
    now += 0.1
    assert watch.look() == 1
    assert (held_by(alive), held_by(dead)) == (1, 0)


def test_worker_dies_although_no_other_is_left(user: User) -> None:
    trigger(user, 1)
    last = new_worker(holds=1)
    long_ago = timezone.now() - timedelta(seconds=life.LONGEST_PAUSE_SECONDS + 1)
    WorkerHeartbeat.objects.filter(id=last).update(beat_at=long_ago)

    assert life.Watch().look() == 1


def test_row_whose_result_ends_the_worker_is_suspect(
    user: User, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    trigger(user, 1)
    monkeypatch.setattr(Desks, "take_outcome", fail)

    with pytest.raises(RuntimeError):
        Engine().run(until_idle=True)

    assert life.reclaim_from_dead_workers() == 1
    assert Delivery.objects.get().is_suspect
