"""X1 to X20: what receivers do to senders, each against the real sender.

Every outcome is classified and comes within its timeout + 1 s (send_all asserts it).
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import psutil
import pytest
from django.utils import timezone

from projects.models import Project, User
from tests.webhooks.sending import answer_of, kind_of, policy, request, send, send_all
from webhooks.choices import FailureKind
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import Attempt, Delivery, Webhook
from webhooks.wire import names
from webhooks.wire.exchange import MAX_BODY_BYTES
from webhooks.wire.many import MultiSender
from webhooks.wire.names import Answer, Resolver
from webhooks.workbench.receiver import Behaviour, HttpReceiver

TIMEOUT_SECONDS = 0.5
OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"


def raw(answer: bytes, **more: object) -> Behaviour:
    return Behaviour(mode="raw", body=answer, **more)  # type: ignore[arg-type]


def closing(answer: bytes) -> Behaviour:
    return raw(answer, end="close")


@contextmanager
def unanswered_connects() -> Iterator[int]:
    """A port whose queue of connections is full: SYNs to it are never acknowledged."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_x1_silence_in_any_phase_is_a_timeout(receiver: HttpReceiver) -> None:
    receiver.behaviour = Behaviour(mode="hang")
    with unanswered_connects() as port, socket.create_server(("127.0.0.1", 0)) as mute:
        urls = [
            receiver.url,
            f"http://127.0.0.1:{port}/",
            f"https://127.0.0.1:{mute.getsockname()[1]}/",
        ]

        outcomes = send_all([request(url) for url in urls], timeout_seconds=TIMEOUT_SECONDS)

    assert [kind_of(outcome) for outcome in outcomes] == ["timeout"] * 3
    assert all(500 <= outcome.duration_ms < 1500 for outcome in outcomes)


def test_x2_dripping_is_bounded_by_the_total_time(receiver: HttpReceiver) -> None:
    receiver.behaviour = Behaviour(mode="drip")

    outcome = send(receiver.url, timeout_seconds=TIMEOUT_SECONDS)

    assert kind_of(outcome) == "timeout"
    assert outcome.duration_ms < 1500


def test_x2_dripped_body_does_not_undo_an_answer(receiver: HttpReceiver) -> None:
    receiver.behaviour = raw(OK + b"Content-Length: 100\r\n\r\nab")

    outcome = send(receiver.url, timeout_seconds=TIMEOUT_SECONDS)

    assert kind_of(outcome) == "200"
    assert (answer_of(outcome).content, answer_of(outcome).truncated) == (b"ab", True)


def test_x3_endless_interim_answers_end_soon(receiver: HttpReceiver) -> None:
    receiver.behaviour = raw(b"", flood=b"HTTP/1.1 100 Continue\r\n\r\n")

    assert kind_of(send(receiver.url)) == "too_large"


@pytest.mark.parametrize(("count", "kind"), [(8, "200"), (9, "too_large")])
def test_x3_eight_interim_answers_are_borne(receiver: HttpReceiver, count: int, kind: str) -> None:
    receiver.behaviour = raw(b"HTTP/1.1 102 Processing\r\n\r\n" * count + OK + EMPTY)

    assert kind_of(send(receiver.url)) == kind


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_x4_interim_answer_is_not_the_final_one(receiver: HttpReceiver, interim: str) -> None:
    hints = f"HTTP/1.1 {interim}\r\nLink: </x>\r\n\r\n".encode()
    receiver.behaviour = raw(hints + OK + b"X-Final: yes\r\nContent-Length: 2\r\n\r\nok")

    outcome = send(receiver.url)

    assert kind_of(outcome) == "200"
    assert dict(answer_of(outcome).headers) == {"X-Final": "yes", "Content-Length": "2"}
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        raw(OK + b"\r\n", flood=b"x" * 65536),
        raw(OK + b"Content-Length: 10000000000\r\n\r\n", flood=b"x" * 65536),
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", flood=b"8000\r\n" + b"x" * 32768 + b"\r\n"),
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", flood=b"X-Trailer: 1\r\n"),
    ],
)
def test_x5_endless_body_is_cut_and_costs_no_memory(
    receiver: HttpReceiver, behaviour: Behaviour
) -> None:
    receiver.behaviour = behaviour
    send(receiver.url)
    before = psutil.Process().memory_info().rss

    for _ in range(10):
        outcome = send(receiver.url)
        assert kind_of(outcome) == "200"
        assert answer_of(outcome).truncated
        assert len(answer_of(outcome).content) <= MAX_BODY_BYTES

    assert psutil.Process().memory_info().rss - before < 10 * 1024 * 1024


def test_x5_endless_chunk_extension_is_bounded(receiver: HttpReceiver) -> None:
    receiver.behaviour = raw(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", flood=b"extension=1;")

    outcome = send(receiver.url, timeout_seconds=TIMEOUT_SECONDS)

    assert kind_of(outcome) == "200"
    assert (answer_of(outcome).content, answer_of(outcome).truncated) == (b"", True)


def test_x5_trailers_are_not_taken_for_headers(receiver: HttpReceiver) -> None:
    receiver.behaviour = raw(
        OK + b"Transfer-Encoding: chunked\r\nX: 1\r\n\r\n2\r\nok\r\n0\r\nX: 2\r\n"
        b"HTTP/1.1 500: no\r\nRetry-After: 9\r\n\r\n"
    )

    outcome = send(receiver.url)

    assert kind_of(outcome) == "200"
    assert dict(answer_of(outcome).headers) == {"Transfer-Encoding": "chunked", "X": "1"}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", ", ".join(["gzip"] * 20), "x"])
def test_x6_compressed_body_is_never_inflated(receiver: HttpReceiver, coding: str) -> None:
    import gzip

    bomb = gzip.compress(b"\0" * 10_000_000)
    receiver.behaviour = Behaviour(body=bomb, headers=(("Content-Encoding", coding),))

    outcome = send(receiver.url)

    assert answer_of(outcome).content == bomb
    assert receiver.requests[0].headers["accept-encoding"] == "identity"


def test_x6_compressed_transfer_coding_is_refused(receiver: HttpReceiver) -> None:
    receiver.behaviour = closing(
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )

    assert kind_of(send(receiver.url)) == "protocol"


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"X-%d: 1\r\n" % number for number in range(101)),
        b"X: " + b"y" * 70_000 + b"\r\n",
        b"X: " + b"y" * 200_000 + b"\r\n",
        (b"X: " + b"y" * 60_000 + b"\r\n") * 100,
        b"Set-Cookie: a=b\r\n" * 10_000,
    ],
)
def test_x7_excessive_headers_are_a_failure(receiver: HttpReceiver, headers: bytes) -> None:
    receiver.behaviour = raw(OK + headers + EMPTY)

    assert kind_of(send(receiver.url)) == "too_large"


def test_x7_hundred_headers_are_accepted(receiver: HttpReceiver) -> None:
    headers = b"".join(b"X-%d: 1\r\n" % number for number in range(99))
    receiver.behaviour = raw(OK + headers + EMPTY)

    assert kind_of(send(receiver.url)) == "200"


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize(
    "location", [None, "/again", "http://127.0.0.3/", "file:///etc/passwd", "//x", ""]
)
def test_x8_redirect_is_a_failure_and_not_followed(
    receiver: HttpReceiver, dialled: list[str], status: int, location: str | None
) -> None:
    headers = () if location is None else (("Location", location),)
    receiver.behaviour = Behaviour(status=status, headers=headers)

    outcome = send(receiver.url)

    assert kind_of(outcome) == str(status)
    assert (len(receiver.requests), len(dialled)) == (1, 1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"hello", "protocol"),
        (b"ICY 200 OK\r\n\r\n", "protocol"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "protocol"),
        (b"220 mail.example ESMTP\r\n", "protocol"),
        (b"HTTP/2 200\r\n\r\n", "200"),
        (b"HTTP/3 200\r\n\r\n", "200"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "protocol"),
        (b"HTTP/1.1 1000 OK\r\n\r\n", "reset"),
        (b"HTTP/1.1 -1 OK\r\n\r\n", "protocol"),
        (b"HTTP/1.1 099 OK\r\n" + EMPTY, "protocol"),
        (b"HTTP/1.1 abc OK\r\n" + EMPTY, "protocol"),
        (b"HTTP/1.1 \xff\xfe\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", "protocol"),
        (b"", "reset"),
        (OK + b"Content-", "protocol"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n10\r\nabc", "200"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc", "200"),
    ],
)
def test_x9_broken_answer_is_classified(receiver: HttpReceiver, answer: bytes, kind: str) -> None:
    receiver.behaviour = closing(answer)

    assert kind_of(send(receiver.url)) == kind
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(b"", "reset"), (OK + b"Content-", "reset"), (OK + b"Content-Length: 9\r\n\r\nab", "200")],
)
def test_x9_reset_is_classified(receiver: HttpReceiver, answer: bytes, kind: str) -> None:
    receiver.behaviour = raw(answer, end="reset")

    assert kind_of(send(receiver.url)) == kind
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(b"999", "999"), (b"600", "600"), (b"101", "reset"), (b"199", "reset")]
)
def test_x10_odd_status_is_a_failure(receiver: HttpReceiver, status: bytes, kind: str) -> None:
    receiver.behaviour = closing(b"HTTP/1.1 %s \x01\x02\x1b[31m\r\n" % status + EMPTY)

    assert kind_of(send(receiver.url)) == kind


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nbody until the end", "200"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", "204"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc", "304"),
        (OK + b"Content-Length: 5\r\nContent-Length: 3\r\n\r\nabcde", "protocol"),
        (OK + b"Content-Length: -5\r\n\r\nabc", "protocol"),
        (OK + b"Content-Length: many\r\n\r\nabc", "protocol"),
        (OK + b"Content-Length: 99999999999999999999999\r\n\r\nabc", "200"),
        (OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "200"),
        (OK + b"Content-Length: 50\r\n\r\nabc", "200"),
    ],
)  # fmt: skip
def test_x11_odd_framing_counts_once_the_headers_ended(
    receiver: HttpReceiver, answer: bytes, kind: str
) -> None:
    receiver.behaviour = closing(answer)

    assert kind_of(send(receiver.url)) == kind


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        OK + b"Content-Length: 2\r\n\r\nok",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_x11_bytes_behind_an_answer_never_become_the_next_one(
    receiver: HttpReceiver, answer: bytes
) -> None:
    forged = b"HTTP/1.1 599 Forged\r\n" + EMPTY
    receiver.script(raw(answer + forged, end="keep"))
    sender = MultiSender(policy("127.0.0.0/8"))

    for _ in range(3):
        (outcome,) = send_all([request(receiver.url)], sender=sender)
        assert kind_of(outcome) != "599"
    sender.close()


def test_x12_end_within_the_headers_is_not_an_answer(receiver: HttpReceiver) -> None:
    receiver.script(closing(OK), closing(OK + b"Content-Length: 2\r\n"), raw(OK))

    outcomes = send_all([request(receiver.url)] * 3, at_once=1)

    assert [kind_of(outcome) for outcome in outcomes] == ["protocol", "protocol", "timeout"]


def test_x17_connection_closed_while_idle_is_replayed_once(receiver: HttpReceiver) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    receiver.script(Behaviour(), Behaviour(mode="close"), Behaviour(status=202))

    first, second = (send_all([request(receiver.url)], sender=sender)[0] for _ in range(2))
    sender.close()

    assert (kind_of(first), kind_of(second)) == ("200", "202")
    assert [received.connection for received in receiver.requests] == [1, 1, 2]


def test_x17_end_of_an_idle_connection_wakes_the_sender_once(receiver: HttpReceiver) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    outcomes = send_all([request(receiver.url)] * 8, sender=sender)
    port = receiver.port
    receiver.close()
    for _ in range(8):
        sender.poll(0.1)

    polls, polled_for = 0, time.monotonic() + 0.5
    while time.monotonic() < polled_for:
        sender.poll(0.1)
        polls += 1
    with HttpReceiver(port=port) as again:
        outcomes += send_all([request(again.url)] * 8, sender=sender)
    sender.close()

    assert polls <= 6
    assert [kind_of(outcome) for outcome in outcomes] == ["200"] * 16


@pytest.mark.parametrize("answer", [b"", b"H", b"HTTP/1.1 200 O"])
def test_x17_request_goes_out_twice_at_most(receiver: HttpReceiver, answer: bytes) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    receiver.behaviour = Behaviour(delay_seconds=0.1)
    send_all([request(receiver.url)] * 4, sender=sender)
    receiver.behaviour = closing(answer)

    (outcome,) = send_all([request(receiver.url)], sender=sender)
    receiver.behaviour = Behaviour()
    (next_one,) = send_all([request(receiver.url)], sender=sender)
    sender.close()

    assert (kind_of(outcome), kind_of(next_one)) == ("reset", "200")
    assert len(receiver.requests) == 4 + 2 + 1


def test_x17_less_than_a_line_of_an_answer_cannot_be_told_from_none(
    receiver: HttpReceiver,
) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    receiver.script(Behaviour(), closing(b"HTTP/1.1 200 O"), Behaviour(status=202))

    outcomes = [send_all([request(receiver.url)], sender=sender)[0] for _ in range(2)]
    sender.close()

    assert kind_of(outcomes[1]) == "202"
    assert len(receiver.requests) == 3


def test_x17_request_is_not_replayed_once_a_line_of_an_answer_came(receiver: HttpReceiver) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    receiver.script(Behaviour(), closing(OK), Behaviour(status=202))

    outcomes = [send_all([request(receiver.url)], sender=sender)[0] for _ in range(2)]
    sender.close()

    assert outcomes[1].error is not None
    assert len(receiver.requests) == 2


def test_x17_request_on_a_fresh_connection_is_not_replayed(receiver: HttpReceiver) -> None:
    receiver.behaviour = Behaviour(mode="close")

    assert kind_of(send(receiver.url)) == "reset"
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("status", [200, 413])
def test_x18_answer_before_the_body_was_read_is_one_attempt(
    receiver: HttpReceiver, end: str, status: int
) -> None:
    receiver.behaviour = Behaviour(status=status, is_early=True, end=end)  # type: ignore[arg-type]

    outcome = send(receiver.url, body=b"x" * 4_000_000, timeout_seconds=2)

    # The kernel resets a connection with unread data, which may overtake the answer.
    assert kind_of(outcome) in {str(status), "reset"}
    assert len(receiver.requests) == 1


def lookup_for(port_answer: Answer) -> Callable[[str], Answer]:
    return lambda host: port_answer


def test_x19_every_failure_of_name_servers_is_a_dns_error(receiver: HttpReceiver) -> None:
    released = threading.Event()

    def lookup(host: str) -> Answer:
        if host.startswith("hangs"):
            released.wait(5)
        return None if host.startswith(("nxdomain", "hangs")) else ()

    urls = [f"http://{name}.example/" for name in ("nxdomain", "empty", "hangs")]
    outcomes = send_all([request(url) for url in urls], lookup=lookup)
    released.set()

    assert [kind_of(outcome) for outcome in outcomes] == ["dns"] * 3
    assert outcomes[2].duration_ms >= 500


def test_x19_what_nobody_waits_for_any_more_is_not_looked_up(
    monkeypatch: pytest.MonkeyPatch, receiver: HttpReceiver
) -> None:
    monkeypatch.setattr(names, "MAX_LOOKUPS", 1)
    released = threading.Event()
    asked = []

    def lookup(host: str) -> Answer:
        asked.append(host)
        if host.startswith("slow"):
            released.wait(5)
        return ("127.0.0.1",)

    sender = MultiSender(policy("127.0.0.0/8"), lookup=lookup)
    slow = [request(f"http://slow{number}.example/") for number in range(20)]
    good = request(receiver.url.replace("127.0.0.1", "good.example"))

    ended = send_all(slow, sender=sender, timeout_seconds=0.2)
    threading.Timer(0.2, released.set).start()
    (answered,) = send_all([good], sender=sender, timeout_seconds=2)
    sender.close()

    assert {kind_of(outcome) for outcome in ended} == {"dns"}
    assert kind_of(answered) == "200"
    assert asked == ["slow0.example", "good.example"]


def test_x19_a_closed_sender_looks_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_LOOKUPS", 1)
    released = threading.Event()
    asked = []

    def lookup(host: str) -> Answer:
        asked.append(host)
        released.wait(5)
        return None

    sender = MultiSender(policy(), lookup=lookup)
    for number in range(5):
        sender.start(request(f"http://h{number}.example/"), timeout_seconds=5, context=number)
    sender.close()
    released.set()
    eventually(lambda: not sender._lookups._resolver._under_way)

    assert asked == ["h0.example"]


def test_x19_old_answers_of_many_hosts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_HOSTS", 100)
    resolver = Resolver(lookup=lambda host: None if host.startswith("no") else ("192.0.2.1",))

    def look_up(kind: str) -> None:
        hosts = [f"{kind}{number}.example" for number in range(150)]
        for host in hosts:
            resolver.get(host)
        eventually(lambda: not resolver._under_way)
        assert all(resolver.get(host)[0] for host in hosts)

    look_up("no-first")
    look_up("first")
    # What is of use is kept, however much it is.
    assert len(resolver._known) == 300
    monkeypatch.setattr(names, "UNRESOLVED_SECONDS", -1.0)
    monkeypatch.setattr(names, "STALE_SECONDS", -1.0)
    for number in range(1000):
        resolver.get(f"later{number}.example")
        eventually(lambda: not resolver._under_way)
        assert len(resolver._known) <= 2 * 300 + 1
    assert len(resolver._known) <= 101


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_x19_many_and_dead_addresses_stay_within_the_timeout(receiver: HttpReceiver) -> None:
    hundred = tuple(f"127.0.1.{number}" for number in range(1, 101))
    url = receiver.url.replace("127.0.0.1", "many.example")

    dead, alive = (
        send_all([request(url)], lookup=lookup_for(answer), timeout_seconds=1)[0]
        for answer in (hundred, (*hundred[:3], "127.0.0.1"))
    )

    assert kind_of(dead) == "connect"
    assert kind_of(alive) == "200"


def test_x19_of_thousands_of_addresses_only_a_few_are_dialled(
    receiver: HttpReceiver, dialled: list[str]
) -> None:
    thousands = tuple(f"127.1.{number // 250}.{number % 250 + 1}" for number in range(4000))
    url = receiver.url.replace("127.0.0.1", "many.example")

    (outcome,) = send_all([request(url)], lookup=lookup_for(thousands), timeout_seconds=5)

    assert kind_of(outcome) == "connect"
    assert len(dialled) == names.MAX_ADDRESSES


def test_x19_name_with_only_an_ipv6_address_is_reached() -> None:
    with HttpReceiver(host="::1") as receiver:
        url = f"http://six.example:{receiver.port}/"

        (outcome,) = send_all([request(url)], lookup=lookup_for(("::1",)))

        assert kind_of(outcome) == "200"
        assert receiver.requests[0].headers["host"] == f"six.example:{receiver.port}"


def test_x20_cookies_are_never_sent_back(receiver: HttpReceiver) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    receiver.behaviour = Behaviour(headers=(("Set-Cookie", "session=canary; Path=/"),))

    for _ in range(3):
        send_all([request(receiver.url)], sender=sender)
    sender.close()

    assert len(receiver.requests) == 3
    assert all("cookie" not in received.headers for received in receiver.requests)


# The same through the dispatcher: what is stored, and that nothing stays stuck.

ALL_BYTES = bytes(range(256))
STORED = {
    "nul": b"a\0b",
    "all bytes": ALL_BYTES,
    "not UTF-8": b"\xff\xfe\xfd",
    "UTF-16": "Zoë".encode("utf-16"),
    "lone surrogate": b"\xed\xa0\x80",
    "many NULs": b"\\u0000" * 1000 + b"\0" * 10_000,
    "terminal": "\x1b[31m\u202egnp.exe\x07".encode(),
    "script": b"<script>alert(1)</script>",
}


@pytest.mark.django_db(transaction=True)
def test_x13_hostile_bytes_are_stored_and_not_sent_again(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    make_webhook(url=receiver.url)
    for body in STORED.values():
        receiver.script(Behaviour(body=body, headers=(("X-Odd", "\x01\x1b[31m\xff\u00ad"),)))
        Project.objects.create(owner=user, name="P")
        run_until_idle()

    attempts = Attempt.objects.order_by("id")
    assert [bytes(attempt.response_body or b"") for attempt in attempts] == list(STORED.values())
    assert {dict(attempt.response_headers)["X-Odd"] for attempt in attempts} == {
        "\x01\x1b[31m\xff\u00ad"
    }
    assert set(Delivery.objects.values_list("status", flat=True)) == {"SUCCESS"}
    assert len(receiver.requests) == len(STORED)


@pytest.mark.django_db(transaction=True)
def test_x7_stored_headers_are_bounded(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    make_webhook(url=receiver.url)
    receiver.behaviour = Behaviour(headers=tuple((f"X-{n}", "y" * 900) for n in range(60)))
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    headers = Attempt.objects.get().response_headers
    assert Delivery.objects.get().status == "SUCCESS"
    assert sum(len(name) + len(value) for name, value in headers) <= 16 * 1024
    assert len(headers) >= 15


RETRY_AFTER = [
    "120", "0", "-5", "1.5", "1_000", "٣", "9" * 20, "nan", "", "1, 2", "Thu, 01 Jan 1970 00:00:00 GMT",
    "Tue, 31 Feb 2026 00:00:00 GMT", "Fri, 31 Dec 10000 23:59:59 GMT", "Tue, 24 Nov 2026 10:00:00",
    "31536000", " 120 ", "\x01", "Infinity", "1e9", "0x10",
]  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_x15_no_retry_after_breaks_or_stalls_a_delivery(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    for value in RETRY_AFTER:
        webhook = make_webhook(url=receiver.url, events=["project.created"])
        receiver.script(
            Behaviour(status=429, headers=(("Retry-After", value.encode().decode("latin-1")),))
        )
        Project.objects.create(owner=user, name="P")
        run_until_idle()
        Webhook.objects.filter(id=webhook.id).update(active=False)

    deliveries = list(Delivery.objects.all())
    now = timezone.now()
    assert len(deliveries) == len(RETRY_AFTER)
    for delivery in deliveries:
        assert (delivery.status, delivery.response_code) == ("RETRYING", 429)
        assert delivery.next_attempt_at is not None
        assert timedelta(0) < delivery.next_attempt_at - now < timedelta(hours=25)


@pytest.mark.django_db(transaction=True)
def test_x16_every_refusing_status_is_recorded_as_what_it_is(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    statuses = [400, 401, 403, 404, 408, 410, 413, 425, 429, 500, 501, 502, 503, 504, 511]
    for status in statuses:
        make_webhook(url=receiver.url, name=str(status), events=["project.created"])
    receiver.script(*(Behaviour(status=status) for status in statuses))
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    codes = list(Delivery.objects.values_list("response_code", flat=True))
    assert sorted(code for code in codes if code is not None) == statuses
    assert set(Delivery.objects.values_list("failure_kind", flat=True)) == {"http_status"}
    assert set(Delivery.objects.values_list("status", flat=True)) <= {"RETRYING", "FAILED"}
    assert len(receiver.requests) == len(statuses)


@pytest.mark.django_db(transaction=True)
def test_no_receiver_leaves_a_row_stuck_or_the_loop_broken(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    behaviours = [
        Behaviour(mode="hang"),
        Behaviour(mode="drip"),
        Behaviour(mode="reset"),
        Behaviour(mode="close"),
        Behaviour(mode="garbage"),
        raw(b"", flood=b"HTTP/1.1 100 Continue\r\n\r\n"),
        raw(OK, flood=b"X: y\r\n"),
        raw(b"HTTP/1.1 500 No\r\n\r\n", flood=b"x" * 65536),
        raw(b"", flood=b"\0" * 65536),
        Behaviour(status=307, headers=(("Location", "http://127.0.0.1:9/"),)),
        closing(b"HTTP/1.1 999 \x00\r\n" + EMPTY),
    ]
    with ExitStack() as stack:
        for behaviour in behaviours:
            receiver = stack.enter_context(HttpReceiver(behaviour=behaviour))
            make_webhook(url=receiver.url, timeout_seconds=1)
        Project.objects.create(owner=user, name="P")

        run_until_idle()

    deliveries = list(Delivery.objects.all())
    assert len(deliveries) == len(behaviours)
    assert {delivery.status for delivery in deliveries} == {"RETRYING"}
    assert {delivery.failure_kind for delivery in deliveries} <= set(FailureKind.values)
    assert all(delivery.error for delivery in deliveries)
    assert not any(attempt.duration_ms > 2000 for attempt in Attempt.objects.all())
