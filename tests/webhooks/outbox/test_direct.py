"""Hints that a commit sends by itself: when it may, and what happens when it may not."""

import time
from collections.abc import Iterator

import pytest
import redis
from rq.job import Job

from tests.workers import black_hole, wait_until
from webhooks.outbox import hints, valkey
from webhooks.outbox.direct import Direct
from webhooks.outbox.hints import Hinter

pytestmark = pytest.mark.usefixtures("empty_valkey")

KEY = "rq:queue:default"


@pytest.fixture
def client() -> redis.Redis:
    return valkey.connect(5)


@pytest.fixture
def hinter(client: redis.Redis) -> Iterator[Hinter]:
    """One that has sent its first hint, by its thread."""
    hinter = Hinter()
    hinter.nudge()
    hinter.flush(5)
    assert client.llen(KEY) == 1
    client.delete(KEY)
    yield hinter
    hinter._direct.close()


def test_hint_that_goes_out_at_once_is_a_job_like_any_other(
    hinter: Hinter, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hinter, "_order", None)
    hinter.nudge()
    wait_until(lambda: client.llen(KEY) == 1)

    queue = hints.make_queue(client)
    (job_id,) = queue.job_ids
    job = Job.fetch(job_id, connection=client, serializer=queue.serializer)
    assert (job.func_name, job.args, job.origin) == (hints.JOB_FUNCTION, [], "default")
    assert job.enqueued_at is not None
    assert abs(job.enqueued_at.timestamp() - time.time()) < 10
    assert 0 < client.ttl(Job.key_for(job_id)) <= hints.JOB_TTL_SECONDS


def test_no_second_wakeup_stands_beside_the_first(hinter: Hinter, client: redis.Redis) -> None:
    for _ in range(50):
        hinter.nudge()
        hinter.flush(5)
    assert client.llen(KEY) == 1

    client.rpush(KEY, "a job")
    hinter.nudge()
    hinter.flush(5)
    hinter.nudge(force=True)
    hinter.flush(5)
    wait_until(lambda: client.llen(KEY) == 4)


@pytest.mark.parametrize("trouble", ["closed", "unknown script"])
def test_thread_takes_over_where_the_connection_is_of_no_use(
    hinter: Hinter, client: redis.Redis, trouble: str
) -> None:
    if trouble == "closed":
        client.client_kill_filter(_type="normal", skipme=True)
    else:
        client.script_flush()
    hinter.nudge()
    time.sleep(0.05)
    # The first may be lost with it; the next one is not.
    hinter.nudge()
    hinter.flush(5)

    assert client.llen(KEY) == 1
    hinter.nudge()
    hinter.flush(5)
    wait_until(lambda: hinter._direct.send(b"PING\r\n"))


def test_valkey_that_hangs_is_noticed_and_never_waited_for() -> None:
    direct = Direct(0.05)
    with black_hole() as silent:
        host, _, port = silent.rpartition(":")
        pool = redis.ConnectionPool(host=host, port=int(port), protocol=2, driver_info=None)
        direct.open(redis.Redis(connection_pool=pool))
        started_at = time.monotonic()
        assert direct.send(b"PING\r\n")
        assert not direct.send(b"PING\r\n")
        assert time.monotonic() - started_at < 0.04
        time.sleep(0.06)
        assert not direct.send(b"PING\r\n")
        assert direct._connection is None
