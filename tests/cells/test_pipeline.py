"""From a producer's database through the log into cells: everything once and in order."""

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cells.cellmap import change_map
from cells.consumer import Consumer
from cells.jetstream import JetStream
from cells.log import Entry, LogClosedError
from cells.relay import Relay
from cells.slots import slot_of, stream_of
from config.services import BASE_DIR
from tests.cells.world import PAID, STREAMS, World
from tests.workers import killed_at_end
from webhooks import service
from webhooks.figures import history
from webhooks.figures.cells import hour_of
from webhooks.figures.history import Selection
from webhooks.ids import first_id_of, new_id
from webhooks.models import RolledUp
from webhooks.outbox import store


def test_events_arrive_in_the_cell_of_their_owner(world: World) -> None:
    ada, bob = world.add_owner("ada", slot=5), world.add_owner("bob", slot=200)
    with world.inside("a"):
        service.create_webhook(ada, name="Orders", url="http://127.0.0.1:9/", events=["*"])
    of_ada, of_bob = world.trigger(ada, 30), world.trigger(bob, 20)

    world.relay()
    world.consume("a", 30)
    world.consume("b", 20)

    assert world.stored("a") == of_ada
    assert world.stored("b") == of_bob
    what = "SELECT id, type, owner_id, payload, object_reference, version FROM webhooks_event"
    sent = world.rows("producer", what)
    assert sorted(sent) == sorted(world.rows("a", what) + world.rows("b", what))
    assert world.rows("a", "SELECT count(*) FROM webhooks_delivery") == [(30,)]
    assert world.rows("producer", "SELECT count(*) FROM webhooks_delivery") == [(0,)]


def test_order_does_not_depend_on_the_clocks_of_producers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = world.add_owner("ada", slot=5)
    with world.inside("a"):
        service.create_webhook(
            ada, name="Orders", url="http://127.0.0.1:9/", events=["*"], order="all"
        )
    # Two hosts, of which one is behind.
    ids = [new_id() for _ in range(6)]
    made = iter([ids[n] for n in (3, 0, 4, 1, 2, 5)])
    monkeypatch.setattr(store, "new_id", lambda: next(made))
    triggered = [id_ for number in range(6) for id_ in world.trigger(ada, 1, first=number)]

    world.relay()
    world.consume("a", 6)

    in_order = "SELECT event_id FROM webhooks_delivery ORDER BY epoch, order_key, id"
    assert [f"evt_{id_.hex}" for (id_,) in world.rows("a", in_order)] == triggered


def test_a_relay_goes_on_after_its_cursor(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    first = world.trigger(ada, 3)
    world.relay()
    second = world.trigger(ada, 3)
    world.relay()
    # As if it had died before it noted the cursor; with new events in the same page.
    with world.server.connect("cells_producer") as connection:
        connection.execute("DELETE FROM cells_relay")
    third = world.trigger(ada, 3)
    world.relay()

    world.consume("a", 9)

    assert world.stored("a") == first + second + third


def test_what_the_log_has_forgotten_is_stored_once(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    ids = world.trigger(ada, 3)
    world.relay()
    world.consume("a", 3)
    config = world.log._wait(world.log._js.stream_info("EVENTS-0")).config
    config.duplicate_window = 0.1
    world.log._wait(world.log._js.update_stream(config))
    time.sleep(0.5)
    with world.server.connect("cells_producer") as connection:
        connection.execute("DELETE FROM cells_relay")
    world.relay()

    assert world.log.bounds(0).last == 6
    world.consume("a", 0)

    assert world.stored("a") == ids


def publish_directly(world: World, owner: Any, document: Any, **headers: str) -> None:
    """What a program in another language does."""
    slot = slot_of(owner)
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    id_ = document.get("id", "") if isinstance(document, dict) else "evt_x"
    subject = f"events.{stream_of(slot, STREAMS)}.{slot}.billing"
    given = {"Nats-Msg-Id": id_, "Owner": str(owner)} | headers
    world.log._wait(world.log._js.publish(subject, data, headers=given))


def document_of(**changes: Any) -> dict[str, Any]:
    data = {"id": "pay_1", "amount": 1, "currency": "EUR"} | PAID
    document = {"id": f"evt_{new_id().hex}", "type": "payment.succeeded"}
    return document | {"created": "2026-11-23T10:30:00.123Z", "data": data} | changes


def test_a_direct_producer_is_checked(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    good = document_of()
    publish_directly(world, ada, document_of(type="payment.unknown"))
    publish_directly(world, ada, document_of(data={"id": 7}))
    publish_directly(world, ada, document_of(created="2026-11-23T10:30:00"))
    publish_directly(world, ada, document_of(), **{"Nats-Msg-Id": "evt_other"})
    publish_directly(world, ada, document_of(), Owner="0193570e-2c7a-7bcd-8f0a-1b2c3d4e5f60")
    publish_directly(world, ada, b"{")
    publish_directly(world, ada, good, Object="p%20%C3%B6")

    world.consume("a", 1)

    assert world.stored("a") == [good["id"]]
    ((payload, reference),) = world.rows(
        "a", "SELECT payload, object_reference FROM webhooks_event"
    )
    assert (json.loads(payload), reference) == (good, "p ö")
    count, refusals = world.log.refusals(10)
    assert count == 6
    reasons = [one.reason for one in reversed(refusals)]
    for reason, part in zip(
        reasons,
        ("payment.unknown", "is not of type", "time zone", "message id", "slot is", "Expecting"),
        strict=True,
    ):
        assert part in reason


def test_a_message_in_a_wrong_stream_moves_no_position(world: World) -> None:
    ada, far = world.add_owner("ada", slot=5), world.add_owner("far", slot=200)
    change_map(world.log, lambda found: found.grant(200, "a", 0))
    # As streams were before they had the subjects of their slots only.
    for number in range(STREAMS):
        config = world.log._wait(world.log._js.stream_info(f"EVENTS-{number}")).config
        config.subjects = [f"events.{number}.>"]
        world.log._wait(world.log._js.update_stream(config))
    for _ in range(3):
        publish_directly(world, far, document_of())
    headers = {"Nats-Msg-Id": f"evt_{new_id().hex}", "Owner": str(ada)}
    for slot in "5", "9" * 30, "x":
        world.log._wait(world.log._js.publish(f"events.1.{slot}.billing", b"{", headers=headers))
    world.consume("a", 3)
    good = document_of()
    headers = {"Nats-Msg-Id": good["id"], "Owner": str(ada)}
    world.log._wait(world.log._js.publish("events.0.5", json.dumps(good).encode(), headers=headers))

    world.consume("a", 1)

    assert world.stored("a")[3:] == [good["id"]]


def test_the_largest_message_can_be_refused(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    good = document_of()
    headers = {"Nats-Msg-Id": "evt_" + "x" * 60_000, "Owner": str(ada)}
    size_bytes = sum(len(f"{name}: {value}\r\n") for name, value in headers.items()) + 12
    # The type makes a long reason of it.
    start = json.dumps(document_of(type="payment.unknown" * 5)).encode()
    data = start.ljust(world.log._client.max_payload - size_bytes)
    world.log._wait(world.log._js.publish("events.0.5.billing", data, headers=headers))
    publish_directly(world, ada, good)

    world.consume("a", 1)

    assert world.stored("a") == [good["id"]]
    count, ((_, reason, id_, kept),) = world.log.refusals(10)
    assert (count, id_, kept) == (1, "evt_" + "x" * 96, data[: len(kept)])
    assert "payment.unknown" in reason


def test_an_event_that_postgres_refuses_holds_no_other(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    world.trigger(ada, 2)
    world.relay()
    # Bytes that are no UTF-8 text: a relay never sends them.
    id_ = f"evt_{new_id().hex}"
    broken = (
        b'{"id":"%s","type":"a.b","created":"2026-11-23T10:30:00.123Z","data":{"a":"\\u0000'
        % (id_.encode())
    )
    world.log.publish({0: [Entry(id_, 5, {"Owner": str(ada)}, broken + b'\x00"}}')]})
    id_ = f"evt_{new_id().hex}"
    broken = (
        b'{"id":"%s","type":"a.b","created":"2026-11-23T10:30:00.123Z","data":"\xff"}'
        % id_.encode()
    )
    world.log.publish({0: [Entry(id_, 5, {"Owner": str(ada)}, broken)]})
    ids = world.trigger(ada, 2, first=2)
    world.relay()

    world.consume("a", 4)

    assert world.stored("a")[2:] == ids
    assert world.log.refusals(1)[0] == 2


def test_what_waited_in_the_log_is_counted_though_its_hour_is_rolled_up(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    hour = hour_of(datetime.now(UTC))
    with world.inside("a"):
        service.create_webhook(ada, name="Orders", url="http://127.0.0.1:9/", events=["*"])
        RolledUp.objects.create(first_hour=hour - 5, end_hour=hour + 1)
    happened = datetime.now(UTC) - timedelta(hours=2)
    id_ = str(first_id_of(happened)).replace("-", "")
    late = document_of(id=f"evt_{id_}", created=happened.isoformat())
    publish_directly(world, ada, late)
    world.consume("a", 1)

    with world.inside("a"):
        found = history.totals(Selection(happened - timedelta(hours=1), datetime.now(UTC)))
        assert found.deliveries == 1


@pytest.mark.parametrize("place", ["producer", "a"])
def test_a_connection_that_the_log_has_ended_is_not_waited_out(world: World, place: str) -> None:
    log = JetStream(world.cluster.url)
    try:
        # The server answers as to expired credentials: with an error, and with the end.
        log._wait(log._client._send_command(b"NONSENSE\r\n"))
        give_up_at = time.monotonic() + 20
        part = Relay(log) if place == "producer" else Consumer(log, place)
        with (
            world.inside(place),
            pytest.raises(LogClosedError, match=r"ended the connection: nats: .*unknown protocol"),
        ):
            part.run(lambda: time.monotonic() > give_up_at)
    finally:
        log.close()


# Processes that are killed.


def test_everything_arrives_once_although_relay_and_consumer_are_killed(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    ids: list[str] = []
    for part in range(4):
        with world.running("producer", "relay"), world.running("a", "consume"):
            ids += world.trigger(ada, 300, first=300 * part)
            world.wait_for_stored("a", 300 * part + 50)
    with world.running("producer", "relay"), world.running("a", "consume"):
        world.wait_for_stored("a", len(ids))

    assert world.stored("a") == ids
    assert world.log.bounds(0).last == len(ids)


def test_a_told_consumer_ends_in_order(world: World) -> None:
    with world.running("a", "consume") as consumer, world.running("producer", "relay") as relay:
        ids = world.trigger(world.add_owner("ada", slot=5), 10)
        world.wait_for_stored("a", 10)
        for process in (consumer, relay):
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0

    assert world.stored("a") == ids


def test_relay_waits_for_postgres_at_its_start_too(world: World) -> None:
    away = world.environment("producer") | {"DATABASE_URL": "postgres://x:y@127.0.0.1:1/x"}
    with (
        subprocess.Popen(
            [sys.executable, "manage.py", "cells", "relay"],
            cwd=BASE_DIR,
            env=away,
            stderr=subprocess.PIPE,
        ) as relay,
        killed_at_end(relay),
    ):
        assert relay.stderr
        assert any(b"The relay tries again" in line for line in relay.stderr)
        assert relay.poll() is None
