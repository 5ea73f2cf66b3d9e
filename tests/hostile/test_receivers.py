"""Valid, cheap to send and dear to read: no answer takes more of a worker than a share of it.

Processor time is that of the sending thread, which stays the same however busy the machine is.
"""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice

import psutil
import pytest

from tests.hostile.receivers import ANSWERS, DRIPS, FLOODS, HOLDS, PLAIN, hostile_receivers
from tests.webhooks.sending import kind_of, policy, request, send_all
from webhooks.wire.many import MultiSender, Outcome
from webhooks.wire.one import CurlAdapter

MANY = 1500
LEAST_FREE_BYTES = 130 * 1024 * 1024
"""What a worker's start demands beside its payloads and the 90 MB that it takes by itself."""


@pytest.fixture(scope="module")
def hostile() -> Iterator[str]:
    with hostile_receivers() as url:
        yield url


@pytest.fixture
def sender() -> Iterator[MultiSender]:
    sender = MultiSender(policy("127.0.0.0/8"), max_connections=1536)
    yield sender
    sender.close()


def processor_ms_each(url: str, count: int = 50) -> float:
    """Return what one request costs the sending thread, of several."""
    before = time.thread_time()
    send_all([request(url)] * count, timeout_seconds=5, at_once=16)
    return (time.thread_time() - before) * 1000 / count


@pytest.mark.parametrize("kind", [kind for kind in ANSWERS if kind != PLAIN])
def test_no_answer_costs_much_more_than_a_plain_one(hostile: str, kind: str) -> None:
    plain = processor_ms_each(hostile + PLAIN)

    assert processor_ms_each(hostile + kind) < 15 * plain


def send_many(sender: MultiSender, urls: list[str], timeout_seconds: float) -> Iterator[Outcome]:
    for url in urls:
        sender.start(request(url), timeout_seconds=timeout_seconds, context=url)
    while sender.in_flight:
        yield from sender.poll(0.05)


def test_many_that_drip_leave_the_thread_to_others(hostile: str, sender: MultiSender) -> None:
    urls = [hostile + kind for kind in islice(cycle(DRIPS), 300)]
    before, since = time.thread_time(), time.monotonic()

    outcomes = list(send_many(sender, urls, 6))

    assert len(outcomes) == len(urls)
    assert (time.thread_time() - before) / (time.monotonic() - since) < 0.2


def test_what_costs_too_much_is_cut_off_and_charged(hostile: str, sender: MultiSender) -> None:
    urls = [hostile + kind for kind in FLOODS]

    outcomes = {outcome.context: outcome for outcome in send_many(sender, urls, 20)}

    extension = outcomes[hostile + "flood-extension"]
    assert kind_of(extension) == "200"
    assert extension.processor_ms > 0
    assert all(outcome.duration_ms < 10_000 for outcome in outcomes.values())
    assert Counter(map(kind_of, outcomes.values())) == {"200": 2, "too_large": 3}


def test_single_request_that_costs_too_much_is_cut_off_as_well(hostile: str) -> None:
    adapter = CurlAdapter(policy("127.0.0.0/8"))
    before = time.thread_time()

    answer = adapter.send(request(hostile + "flood-extension"), timeout=6)

    assert answer.status_code == 200
    assert time.thread_time() - before < 2


@pytest.mark.parametrize("kind", [kind for kind in HOLDS if kind != "hang"])
def test_many_unfinished_answers_fit_into_what_a_start_demands(
    hostile: str, sender: MultiSender, kind: str
) -> None:
    process = psutil.Process()
    before = most = process.memory_info().rss
    ended = 0
    for number, _ in enumerate(send_many(sender, [hostile + kind] * MANY, 4)):
        if number % 100 == 0:
            most = max(most, process.memory_info().rss)
        ended += 1

    assert ended == MANY
    assert max(most, process.memory_info().rss) - before < LEAST_FREE_BYTES
