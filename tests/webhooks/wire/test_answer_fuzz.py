"""Seeded mutations of raw HTTP answers: each one is classified, none hangs, crashes or piles up.

A failure names its seed; `mutated(seed)` gives the answer again.
"""

import json
import random
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest

from projects.models import User
from tests.webhooks.sending import kind_of, policy, request, send_all
from tests.webhooks.wire.test_headers import endpoint_of
from webhooks import service
from webhooks.choices import FailureKind
from webhooks.dispatch.engine import run_until_idle
from webhooks.dispatch.flight import Sent
from webhooks.dispatch.outcome import read_outcome
from webhooks.dispatch.take import ClaimedDelivery
from webhooks.ids import new_id
from webhooks.models import Attempt, Delivery, Webhook
from webhooks.wire.many import MultiSender, Outcome
from webhooks.wire.signing import SigningKey, generate_secret
from webhooks.workbench.receiver import Behaviour, HttpReceiver

ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nSet-Cookie: a=b; Path=/\r\nSet-Cookie: c=d\r\n\r\nuntil the end",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy",
    b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nVary: *\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
]
PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b"\xff", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n",
    b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"9" * 25, b"-1", b"0x10", b"HTTP/9.9 ",
    b"ffffffffffffffff\r\n", b"A" * 5000, b"X: y\r\n" * 120, b"\x80" * 300, b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Upgrade: h2c\r\n", b"Alt-Svc: h3=\":443\"\r\n", b"Content-Length: 2\r\n", b"\x1b[2J", b"HTTP/2 200\r\n",
    b"Location: file:///etc/passwd\r\n", b"Trailer: X\r\n", b"Retry-After: nan\r\n", b"Keep-Alive: timeout=x\r\n",
]  # fmt: skip


def mutated(seed: int) -> bytes:
    """Return a valid answer after one to six random edits."""
    dice = random.Random(seed)
    answer = dice.choice(ANSWERS)
    for _ in range(dice.randint(1, 6)):
        start = dice.randint(0, len(answer))
        end = min(len(answer), start + dice.choice((0, 1, 1, 2, 8, 40)))
        middle = answer[start:end]
        edit = dice.randrange(6)
        if edit == 0:
            middle = dice.choice(PIECES)
        elif edit == 1:
            middle = bytes(byte ^ 1 << dice.randrange(8) for byte in middle)
        elif edit == 2:
            middle = middle * dice.choice((2, 3, 50))
        elif edit == 3:
            middle = dice.randbytes(len(middle))
        elif edit == 4:
            middle = b""
        else:
            answer, middle, end = answer[:start], dice.choice(ANSWERS), len(answer)
        answer = answer[:start] + middle + answer[end:]
    return answer


def behaviour(seed: int) -> Behaviour:
    """Most connections end after the answer, some break, a few stay open."""
    end = random.Random(seed).choices(["close", "reset", "keep"], [80, 15, 5])[0]
    return Behaviour(mode="raw", body=mutated(seed), end=end)  # type: ignore[arg-type]


def send_mutated(seeds: range, sender: MultiSender, receiver: HttpReceiver) -> list[Outcome]:
    receiver.script(*map(behaviour, seeds))
    prepared = [request(receiver.url)] * len(seeds)
    return send_all(prepared, sender=sender, timeout_seconds=0.2, at_once=128)


@pytest.mark.parametrize(
    "count", [pytest.param(1500, id="short"), pytest.param(10_000, marks=pytest.mark.full)]
)
def test_mutated_answers_are_all_classified_in_time_and_memory(count: int) -> None:
    key = SigningKey.from_secret(generate_secret())
    process = psutil.Process()
    sender = MultiSender(policy("127.0.0.0/8"))
    with HttpReceiver() as receiver:
        send_mutated(range(300), sender, receiver)
        before = process.memory_info().rss
        outcomes = []
        for first in range(0, count, 500):
            outcomes += send_mutated(range(first, first + 500), sender, receiver)
    sender.close()
    growth = process.memory_info().rss - before

    assert len(outcomes) == count
    for outcome in outcomes:
        assert (outcome.error is None) != (outcome.response is None)
        assert outcome.error is None or outcome.error.kind in FailureKind.values
        _assert_storable(outcome, key)
    # Both happen, or the fuzzer has lost its teeth.
    kinds = {kind_of(outcome) for outcome in outcomes}
    assert {"200", "protocol", "reset", "timeout"} <= kinds
    assert growth <= 50 * 1024 * 1024


def _assert_storable(outcome: Outcome, key: SigningKey) -> None:
    delivery = ClaimedDelivery(new_id(), new_id(), new_id(), 0, 0, "not.in_the_catalogue", b"{}")
    sent = Sent(delivery, endpoint_of("http://x/", (), key), new_id(), 0.0)
    outcome = replace(outcome, request=request("http://x/"))
    (record,), _ = read_outcome(sent, outcome, 0.0, False, is_ordered=False)
    result = record.result
    text = json.dumps(result)
    assert "\\u0000" not in text
    assert result["code"] is None or 200 <= result["code"] <= 999
    assert len(b64decode(result["response_head"])) <= 16 * 1024


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "count", [pytest.param(200, id="short"), pytest.param(1500, marks=pytest.mark.full)]
)
def test_mutated_answers_leave_no_row_stuck(
    user: User, make_webhook: Callable[..., Webhook], count: int
) -> None:
    data = {
        "id": str(user.id),
        "name": "P",
        "deletedAt": "2026-11-23T10:30:00.123Z",
    }
    with HttpReceiver() as receiver:
        make_webhook(url=receiver.url, timeout_seconds=1, retry_delay_seconds=3600)
        receiver.script(*(behaviour(seed) for seed in range(20_000, 20_000 + count)))
        trigger = service.Trigger("project.deleted", user, data)
        for first in range(0, count, 1000):
            service.trigger_events([trigger] * min(1000, count - first))

        # The breaker, Retry-After and 410 hold the rest back, as they should.
        for _ in range(count):
            run_until_idle()
            if not Delivery.objects.filter(status="PENDING").exists():
                break
            Webhook.objects.update(
                active=True, breaker_state="closed", breaker_failures=0, held_until=None
            )

    statuses = Delivery.objects.values_list("status", "failure_kind").distinct()
    assert Delivery.objects.count() == Attempt.objects.count() == count
    assert {status for status, _ in statuses} <= {"SUCCESS", "RETRYING", "FAILED"}
    assert {kind for _, kind in statuses} <= {"", *FailureKind.values}
    assert not Delivery.objects.exclude(claimed_by=None).exists()
