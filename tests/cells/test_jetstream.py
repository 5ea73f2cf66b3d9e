"""The log: real servers, killed and started again."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cells.cluster import Cluster
from cells.jetstream import JetStream
from cells.jetstream_batches import _command, _headers
from cells.jetstream_reader import JetStreamReader
from cells.log import Entry, LogError, MapChangedError, Message, Reader
from config.services import BASE_DIR
from tests.workers import wait_until


def entries(first: int, last: int, slot: int = 3) -> list[Entry]:
    return [
        Entry(f"evt_{slot}_{n}", slot, {"Owner": "o"}, b'{"n":%d}' % n) for n in range(first, last)
    ]


def read(reader: Reader, count: int) -> list[Message]:
    found: list[Message] = []
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} messages"
        found += reader.take(count - len(found), 1)
    return found


@pytest.fixture
def stream(log: JetStream) -> int:
    """An empty stream."""
    log.create(2)
    return 0


def test_messages_come_in_order_with_their_positions(log: JetStream, stream: int) -> None:
    log.publish({stream: entries(0, 2500)})

    reader = log.reader({stream: 0})
    found = read(reader, 2500)
    reader.close()

    assert [message.position for message in found] == list(range(1, 2501))
    assert [message.id for message in found] == [f"evt_3_{n}" for n in range(2500)]
    assert (found[0].stream, found[0].slot, found[0].is_direct) == (stream, 3, False)
    assert (found[0].headers["Owner"], found[0].data) == ("o", b'{"n":0}')
    assert log.bounds(stream) == (1, 2500)


def test_a_reader_begins_after_a_position(log: JetStream, stream: int) -> None:
    log.publish({stream: entries(0, 20)})
    reader = log.reader({stream: 12})

    assert [one.position for one in read(reader, 8)] == list(range(13, 21))
    log.publish({stream: entries(20, 21)})
    assert [one.position for one in read(reader, 1)] == [21]
    reader.close()


def test_what_is_published_again_is_stored_once(log: JetStream, stream: int) -> None:
    log.publish({stream: entries(0, 10)})
    log.publish({stream: entries(0, 10)})
    log.publish({stream: entries(5, 15)})

    reader = log.reader({stream: 0})
    assert [one.id for one in read(reader, 15)] == [f"evt_3_{n}" for n in range(15)]
    reader.close()
    assert log.bounds(stream).last == 15


def test_large_messages_wait_in_the_log(log: JetStream, caplog: pytest.LogCaptureFixture) -> None:
    log.create(2)
    data = b"x" * 250_000
    for first in range(0, 200, 25):
        large = [Entry(f"{n}", 3, {}, data) for n in range(first, first + 25)]
        log.publish({0: large, 1: [Entry(one.id, 200, {}, data) for one in large]})
    reader = log.reader({0: 0, 1: 0})
    assert isinstance(reader, JetStreamReader)

    wait_until(lambda: len(reader._read) > 50)
    time.sleep(1)

    assert sum(len(one.data) for one in reader._read) < 24 * 1024 * 1024
    found: list[Message] = []
    while len(found) < 400:
        taken = reader.take(1000, 5)
        assert 0 < sum(len(one.data) for one in taken) < 5 * 1024 * 1024
        found += taken
    reader.close()
    for stream in (0, 1):
        own = [int(one.id) for one in found if one.stream == stream]
        assert own == list(range(200))
    assert not caplog.messages, "the end of a pull is no fault"


@pytest.mark.parametrize("subject", ["events.0.200.billing", "events.1.3.billing", "events.0.3"])
def test_who_publishes_to_a_wrong_stream_is_told(log: JetStream, stream: int, subject: str) -> None:
    with pytest.raises(LogError):
        log._wait(log._js.publish(subject, b"{}"))


def test_the_map_changes_by_compare_and_swap(log: JetStream) -> None:
    log.create(1)
    assert log.read_map() == (b"", 0)
    first = log.write_map(b"one", 0)

    with pytest.raises(MapChangedError):
        log.write_map(b"two", 0)

    assert log.read_map() == (b"one", first)
    assert log.write_map(b"two", first) > first


def test_a_message_is_refused_once(log: JetStream, stream: int) -> None:
    message = Message(stream, 7, "evt_1", 3, True, {}, b"{}")
    before, _ = log.refusals(1)

    log.refuse([(message, "It\nis no öbject.")])
    log.refuse([(message, "It\nis no öbject.")])

    count, (last,) = log.refusals(1)
    assert count == before + 1
    assert (last.reason, last.message_id, last.data) == ("It is no ?bject.", "evt_1", b"{}")


def test_refusing_many_takes_no_longer_than_publishing_them(log: JetStream, stream: int) -> None:
    many = [Message(stream, n, f"evt_{n}", 3, True, {}, b"{}") for n in range(1, 1001)]
    log.refuse([(many[0], "No.")])
    started_at = time.monotonic()
    for one in many[1:101]:
        log.refuse([(one, "No.")])
    one_by_one = (time.monotonic() - started_at) / 100

    started_at = time.monotonic()
    log.refuse([(one, "No.") for one in many])

    assert (time.monotonic() - started_at) / 1000 < one_by_one / 2
    assert log.refusals(1)[0] == 1000


def test_nothing_is_lost_or_out_of_order_while_nodes_are_killed(
    cluster: Cluster, log: JetStream, stream: int
) -> None:
    total = 6000
    done = threading.Event()

    def publish() -> None:
        position = 0
        while position < total:
            try:
                log.publish({stream: entries(position, min(position + 200, total))})
            except LogError:
                continue
            position += 200
            time.sleep(0.05)
        done.set()

    publisher = threading.Thread(target=publish)
    publisher.start()
    reader = log.reader({stream: 0})
    found: list[Message] = []
    nodes = random.sample(range(3), 3)
    for node in nodes:
        found += read(reader, 400)
        cluster.kill(node)
        time.sleep(0.5)
        cluster.start(node)
        cluster.wait_until_ready()
    found += read(reader, total - len(found))
    publisher.join()
    reader.close()

    assert done.is_set()
    assert [one.id for one in found] == [f"evt_3_{n}" for n in range(total)]


STARTER = """
import sys, time
from pathlib import Path
from cells.cluster import Cluster
with Cluster(Path(sys.argv[1]), nodes=1) as cluster:
    print(*cluster.pids.values(), flush=True)
    time.sleep(600)
"""


def test_the_nodes_end_with_a_killed_parent(tmp_path: Path, cluster: Cluster) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], cwd=BASE_DIR, stdout=subprocess.PIPE
    )
    assert starter.stdout
    with starter.stdout as output:
        node = int(output.readline())
        os.kill(starter.pid, signal.SIGKILL)
        starter.wait()

    wait_until(lambda: not Path(f"/proc/{node}").exists() or is_zombie(node), 20)


def is_zombie(pid: int) -> bool:
    return ") Z" in Path(f"/proc/{pid}/stat").read_text()


def test_a_batch_has_the_bytes_that_nats_py_would_send(log: JetStream) -> None:
    entry = Entry("evt_1", 5, {"Owner": " a\r\nStatus: 1 ", "Object": "p%20%C3%B6"}, b'{"a": 1}')
    headers = _headers(entry, "batch", 7)
    sent: list[bytes] = []

    async def note(command: bytes) -> None:
        sent.append(command)

    client = log._client
    send, client._send_command = client._send_command, note  # type: ignore[method-assign,assignment]
    try:
        log._wait(client.publish("events.0.5.relay", entry.data, headers=headers))
    finally:
        client._send_command = send  # type: ignore[method-assign]

    assert sent == [_command("events.0.5.relay", entry, headers)]
