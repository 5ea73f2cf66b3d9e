"""Slots that move between cells: with their rows, their order, and whatever dies meanwhile."""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, transaction

from cells import consumer
from cells.cellmap import read_map
from cells.copying import MoveError
from cells.moving import Move
from config.embedded import die_with_parent
from config.services import BASE_DIR
from tests.cells.world import CELLS, World, consuming, payment
from tests.workers import killed_at_end
from webhooks import service
from webhooks.models import Webhook
from webhooks.repair import integrity

SLOT = 5
TABLES = ("webhook", "signingsecret", "event", "delivery", "attempt")


def move(world: World, to: str) -> None:
    with world.inside("producer"):
        Move(world.log, SLOT, databases(world), lambda step: None).run(to)


def databases(world: World) -> dict[str, str]:
    return {cell: world.url(cell) for cell in CELLS}


def make_webhook(world: World, cell: str, owner: Any, **fields: Any) -> Webhook:
    with world.inside(cell):
        values = {"name": "Orders", "url": "http://127.0.0.1:9/hook", "events": ["*"]} | fields
        return service.create_webhook(owner, **values)


def counts(world: World, cell: str) -> list[int]:
    return [world.rows(cell, f"SELECT count(*) FROM webhooks_{table}")[0][0] for table in TABLES]  # noqa: S608


def ordered(world: World, cell: str) -> list[str]:
    """The ids of the events that a webhook in order waits for, in its order."""
    order = "SELECT event_id FROM webhooks_delivery WHERE order_key IS NOT NULL AND finished_at IS NULL ORDER BY epoch, order_key, id"
    return [f"evt_{id_.hex}" for (id_,) in world.rows(cell, order)]


def faults(world: World, cell: str) -> list[Any]:
    with world.inside(cell):
        return list(integrity.find_faults())


def test_a_slot_moves_there_and_back_with_everything(world: World) -> None:
    ada, bob = world.add_owner("ada", slot=SLOT), world.add_owner("bob", slot=6)
    make_webhook(world, "a", ada, order="all")
    make_webhook(world, "a", ada, name="Objects", order="object")
    make_webhook(world, "a", bob)
    ids = world.trigger(ada, 10)
    world.trigger(bob, 4)
    world.relay()
    world.consume("a", 14)
    before = world.rows("a", "SELECT id, payload, created_at FROM webhooks_event ORDER BY id")

    move(world, "b")
    assert counts(world, "a") == [1, 1, 4, 4, 0]
    assert counts(world, "b") == [2, 2, 10, 20, 0]
    ids += world.trigger(ada, 10, first=10)
    world.relay()
    world.consume("b", 10)
    move(world, "a")
    ids += world.trigger(ada, 10, first=20)
    world.relay()
    world.consume("a", 10)

    assert counts(world, "b") == [0] * 5
    assert counts(world, "a") == [3, 3, 34, 64, 0]
    of_objects = "SELECT event_id FROM webhooks_delivery WHERE object_key IS NOT NULL ORDER BY epoch, object_sequence"
    assert [f"evt_{id_.hex}" for (id_,) in world.rows("a", of_objects)] == ids
    assert [one for one in ordered(world, "a") if one in ids] == [n for n in ids for _ in range(2)]
    after = world.rows("a", "SELECT id, payload, created_at FROM webhooks_event ORDER BY id")
    assert set(before) <= set(after)
    assert world.rows("a", "SELECT count(*) FROM projects_user WHERE NOT is_active") == [(0,)]
    assert faults(world, "a") == faults(world, "b") == []


def test_events_for_the_platform_stay_where_they_were_sent(world: World) -> None:
    ada = world.add_owner("ada", slot=SLOT)
    make_webhook(world, "a", ada)
    with world.inside("a"):
        service.create_webhook(
            None, name="Audit", url="http://127.0.0.1:9/", events=["*"], is_platform=True
        )
    world.trigger(ada, 3)
    world.relay()
    world.consume("a", 3)

    move(world, "b")
    assert (counts(world, "a")[2:4], counts(world, "b")[2:4]) == ([3, 3], [3, 3])
    assert faults(world, "a") == faults(world, "b") == []
    move(world, "a")

    assert (counts(world, "a")[2:4], counts(world, "b")[2:4]) == ([3, 6], [0, 0])
    assert faults(world, "a") == faults(world, "b") == []


def test_a_move_can_be_taken_back(world: World) -> None:
    ada = world.add_owner("ada", slot=SLOT)
    ids = world.trigger(ada, 3)
    world.relay()
    world.consume("a", 3)
    before = counts(world, "a")
    with world.inside("producer"):
        stuck = Move(world.log, SLOT, databases(world) | {"b": world.url("nowhere")}, print)
        with pytest.raises(Exception, match="nowhere"):
            stuck.run("b")
        ids += world.trigger(ada, 3, first=3)
        Move(world.log, SLOT, databases(world), print).cancel()
        with pytest.raises(MoveError, match="is not being moved"):
            Move(world.log, SLOT, databases(world), print).cancel()
    world.relay()
    world.consume("a", 3)

    assert world.stored("a") == ids
    assert counts(world, "a")[0] == before[0]
    assert world.rows("a", "SELECT is_active FROM projects_user") == [(True,)]


@contextmanager
def moving(world: World, to: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        world.move_command(SLOT, to),
        cwd=BASE_DIR,
        env=world.environment("producer"),
        stderr=subprocess.PIPE,
        preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )
    assert process.stderr
    with process.stderr, killed_at_end(process):
        yield process


def trigger_in_cell(owner: Any, number: int) -> str:
    return service.trigger_event("payment.succeeded", owner, payment(number)).public_id


def test_event_of_an_open_transaction_moves_too(world: World) -> None:
    ada = world.add_owner("ada", slot=SLOT)
    make_webhook(world, "a", ada, order="all")
    with world.inside("a"), moving(world, "b") as mover:
        assert mover.stderr
        with transaction.atomic():
            id_ = trigger_in_cell(ada, 0)
            for line in mover.stderr:
                if b"open transactions" in line:
                    break
            with pytest.raises(subprocess.TimeoutExpired):
                mover.wait(1)
        assert mover.wait(30) == 0

    assert ordered(world, "b") == [id_]
    assert counts(world, "a") == [0] * 5


def test_event_that_is_stored_after_the_copy_goes_through_the_log(world: World) -> None:
    """By a process that stood still between the look at the map and the statement."""
    ada, bob = world.add_owner("ada", slot=SLOT), world.add_owner("bob", slot=6)
    make_webhook(world, "a", ada, order="all")
    ids = world.trigger(ada, 3)
    world.relay()
    world.consume("a", 3)
    of_others: list[str] = []

    def store_late(step: str) -> None:
        if step.startswith("flipping"):
            with world.inside("a"):
                ids.extend(trigger_in_cell(ada, number) for number in (3, 4))
                of_others.append(trigger_in_cell(bob, 5))

    with world.inside("producer"):
        Move(world.log, SLOT, databases(world), store_late).run("b")
    world.consume("b", 2)

    assert ordered(world, "b") == ids
    assert world.stored("a") == of_others
    assert faults(world, "a") == faults(world, "b") == []


STEPS = ("freezing", "waiting", "draining", "copying", "flipping", "cleaning")


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_move_goes_on(world: World, step: str) -> None:
    ada = world.add_owner("ada", slot=SLOT)
    make_webhook(world, "a", ada, order="all")
    ids = world.trigger(ada, 20)
    world.relay()
    world.consume("a", 20)
    with moving(world, "b") as mover:
        assert mover.stderr
        for line in mover.stderr:
            if step.encode() in line:
                break
        time.sleep(0.005)
        mover.send_signal(signal.SIGKILL)
    ids += world.trigger(ada, 5, first=20)
    world.relay()

    try:
        move(world, "b")
    except MoveError as problem:
        # It was killed too late.
        assert "already" in str(problem)  # noqa: PT017
    world.consume("b", 5)

    assert read_map(world.log).moves == {}
    assert ordered(world, "b") == ids
    assert counts(world, "a")[:4] == [0] * 4
    assert faults(world, "a") == faults(world, "b") == []


def test_consumers_of_both_cells_hand_over_while_events_arrive(world: World) -> None:
    ada = world.add_owner("ada", slot=SLOT)
    make_webhook(world, "a", ada, order="all")
    ids: list[str] = []
    with (
        world.running("producer", "relay"),
        world.running("a", "consume"),
        world.running("b", "consume"),
    ):
        mover = threading.Thread(
            target=subprocess.run,
            args=(world.move_command(SLOT, "b"),),
            kwargs={"cwd": BASE_DIR, "env": world.environment("producer"), "check": True},
        )
        ids += world.trigger(ada, 100)
        mover.start()
        while mover.is_alive():
            ids += world.trigger(ada, 10, first=len(ids))
        mover.join()
        ids += world.trigger(ada, 50, first=len(ids))
        world.wait_for_stored("b", len(ids))

    assert ordered(world, "b") == ids
    assert world.stored("a") == []


def test_a_consumer_misses_nothing_of_a_slot_that_came_back_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = world.add_owner("ada", slot=SLOT)
    world.trigger(ada, 3)
    world.relay()
    with world.inside("a"), consuming(world.log, "a") as late:
        assert late.store(late.take()) == 3
        # It looks at no newer map until it is told to.
        monkeypatch.setattr(consumer, "MAP_SECONDS", 1000)
        stuck = Move(world.log, SLOT, databases(world) | {"b": world.url("nowhere")}, print)
        with pytest.raises(psycopg.OperationalError):
            stuck.run("b")
        with world.server.connect("cells_a") as connection:
            connection.execute("UPDATE cells_slot SET is_active = false WHERE slot = 5")
        world.trigger(ada, 3, first=3)
        world.relay()
        assert late.store(late.take()) == 0
        Move(world.log, SLOT, databases(world), print).cancel()
        # Another consumer of the cell is faster.
        consumer.adopt(read_map(world.log), "a")
        ids = world.trigger(ada, 3, first=6)
        world.relay()

        assert late.store(late.take()) == 0
        monkeypatch.setattr(consumer, "MAP_SECONDS", 0)
        stored = 0
        while stored < 6:
            stored += late.store(late.take())
        assert late.store(late.take()) == 0

    assert len(world.stored("a")) == 9
    assert world.stored("a")[-3:] == ids


def test_a_consumer_that_fails_to_read_a_new_map_reads_it_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = world.add_owner("ada", slot=SLOT)
    world.trigger(ada, 3)
    world.relay()
    with world.inside("a"), consuming(world.log, "a") as failing:
        with monkeypatch.context() as away:
            away.setattr(consumer, "POSITIONS_SQL", "SELECT 1 / 0")
            with pytest.raises(DatabaseError):
                failing.take()

        assert failing.store(failing.take()) == 3
