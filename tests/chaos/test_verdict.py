"""The judge of a chaos run names what is wrong, from what it is told alone."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.chaos import verdict
from tests.chaos.causes import Cause, Expected, Outcome, idle
from tests.chaos.evidence import Evidence
from tests.chaos.faults import Fault
from tests.chaos.recipients import Recipient, Secret, Span
from tests.chaos.verdict import judge
from webhooks.models import Webhook
from webhooks.wire.signing import generate_secret, load_key, sign_hex, sign_standard

pytestmark = pytest.mark.django_db

SECRET, OTHER = generate_secret(), generate_secret()
ADA, BOB = "ada", "bob"
START = 1000.0


@pytest.fixture(autouse=True)
def alone_at_the_end() -> None:
    """No worker runs here."""


def recipient(path: str, owner: str, *, order: str = "none") -> Recipient:
    created = Span(START - 2, START - 1)
    return Recipient(path, owner, ["*"], order, created, [Secret(SECRET, 0.0)], Webhook())


@dataclass
class Run:
    """What happened: two transactions of one message each, told to one webhook in order."""

    causes: list[Cause] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    recipients: list[Recipient] = field(
        default_factory=lambda: [recipient("/ada", ADA, order="all"), recipient("/bob", BOB)]
    )
    feed: list[dict[str, Any]] | None = None
    """None for all that may have been committed, in the order of the causes."""

    def caused(self, name: str, at: float, outcome: Outcome = "committed") -> None:
        expected = Expected("session.message", ADA, {"id": name, "content": "hello"})
        ended_at = at + 1 if outcome == "committed" else float("inf")
        self.causes.append(Cause(name, at, [expected], [], outcome, ended_at, at + 1))

    def read(self) -> list[dict[str, Any]]:
        if self.feed is not None:
            return self.feed
        return [
            {"id": f"evt_{expected.data['id']}", "type": expected.type, "data": expected.data}
            for cause in self.causes
            if cause.outcome != "rolled back"
            for expected in cause.expected
        ]

    def came(self, name: str, at: float, *, path: str = "/ada", secret: str = SECRET) -> None:
        data = {"id": name, "content": "hello"}
        self.request(at, path, f"evt_{name}", data, secret)

    def request(
        self,
        at: float,
        path: str,
        event: str,
        data: dict[str, str],
        secret: str,
        name: str = "session.message",
    ) -> None:
        envelope = {"id": event, "type": name, "data": data}
        body, key = json.dumps(envelope).encode(), load_key(secret)
        self.ledger.append(
            {
                "at": at,
                "to": "127.0.0.1",
                "path": path,
                "event": event,
                "type": name,
                "delivery": f"del_{UUID(int=len(event)).hex}",
                "attempt": 1,
                "sha256": hashlib.sha256(body).hexdigest(),
                "good": True,
                "timestamp": str(int(at)),
                "standard": sign_standard([key], event, int(at), body),
                "hex": sign_hex(key, int(at), body),  # type: ignore[arg-type]
                "body": body.decode(),
            }
        )


@pytest.fixture
def run() -> Run:
    told = Run()
    told.caused("one", START)
    told.caused("second", START + 2)
    told.came("one", START + 4)
    told.came("second", START + 5)
    return told


@pytest.fixture
def broken(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(verdict, "FEWEST_EVENTS", 0)

    def found() -> list[str]:
        ledger = tmp_path / "ledger"
        ledger.write_text("".join(json.dumps(line) + "\n" for line in run.ledger))
        feed = tmp_path / "feed"
        feed.write_text(json.dumps({"events": [json.dumps(event) for event in run.read()]}) + "\n")
        recipients = {one.path: one for one in run.recipients}
        evidence = Evidence(run.causes, recipients, run.faults, [(0.0, "127.0.0.1")])
        evidence.read_ledger(ledger)
        evidence.read_feed(feed)
        return sorted(judge(evidence).broken)

    return found


def test_nothing_is_wrong_with_what_came_once_in_order(broken: Callable[[], list[str]]) -> None:
    assert broken() == []


def test_committed_and_never_received_is_lost(run: Run, broken: Callable[[], list[str]]) -> None:
    del run.ledger[1]

    assert broken() == ["lost"]


def test_what_went_down_with_a_server_need_not_come_if_it_is_the_tail(
    run: Run, broken: Callable[[], list[str]]
) -> None:
    del run.ledger[1]
    run.feed = [run.read()[0]]
    key = ("session.message", "second")
    fault = Fault("failover", START + 2, works_from=START + 9)
    fault.forgotten, fault.forgotten_from = frozenset([key]), START + 2
    run.faults = [fault]
    assert broken() == []

    fault.forgotten_from = START + 10
    assert broken() == ["lost, and not the tail"]

    run.causes[1].expected.append(Expected("session.message", ADA, {"id": "beside"}))
    fault.forgotten_from = START + 2
    assert broken() == ["lost, and not the tail"]


def test_unknown_outcome_may_be_nothing_but_not_a_part(
    run: Run, broken: Callable[[], list[str]]
) -> None:
    cause = run.causes[1]
    cause.outcome = "unknown"
    run.ledger.pop()
    assert broken() == []

    cause.expected.append(Expected("session.message", ADA, {"id": "beside"}))
    run.came("beside", START + 6)
    assert "lost" in broken()


def test_rolled_back_and_received(run: Run, broken: Callable[[], list[str]]) -> None:
    run.caused("undone", START, "rolled back")
    run.came("undone", START + 6)

    assert broken() == ["sent though rolled back"]


def test_received_without_any_cause(run: Run, broken: Callable[[], list[str]]) -> None:
    run.came("never", START + 6)

    assert broken() == ["sent without a cause"]


def test_order_per_object_lets_other_objects_pass(
    run: Run, broken: Callable[[], list[str]]
) -> None:
    run.recipients[0].order = "object"
    run.ledger.reverse()
    assert broken() == []

    # Two changes of one session.
    for cause, name in zip(run.causes, ("session.started", "session.ended"), strict=True):
        cause.expected[:] = [Expected(name, ADA, {"id": "same"})]
    run.ledger.clear()
    for at, name in enumerate(("session.ended", "session.started")):
        run.request(START + 4 + at, "/ada", f"evt_{name}", {"id": "same"}, SECRET, name)
    run.feed = [
        {"id": f"evt_{name}", "type": name, "data": {"id": "same"}}
        for name in ("session.started", "session.ended")
    ]
    assert broken() == ["out of order"]


def test_later_transaction_received_first(run: Run, broken: Callable[[], list[str]]) -> None:
    run.ledger.reverse()

    assert broken() == ["out of order"]


def test_transactions_that_overlap_have_no_order(run: Run, broken: Callable[[], list[str]]) -> None:
    run.causes[1].began_at = START + 0.5
    run.ledger.reverse()

    assert broken() == []


def test_event_that_a_webhook_missed_while_off_is_not_waited_for(
    run: Run, broken: Callable[[], list[str]]
) -> None:
    """Switched on in the middle of a transaction, it may get the second event of that and not the first."""
    run.recipients[0].off = [Span(START + 1.5, START + 1.6), Span(START + 2.4, START + 2.5)]
    cause = run.causes[1]
    cause.expected.insert(0, Expected("session.message", ADA, {"id": "missed"}))

    assert broken() == []


def test_duplicate_needs_a_fault_that_held_this_very_delivery(
    run: Run, broken: Callable[[], list[str]]
) -> None:
    run.came("second", START + 8)
    assert broken() == ["unexplained duplicates"]

    fault = Fault("kill_worker", START + 5, START + 6, frozenset({"del_other"}), START + 6)
    fault.works_from = START + 6
    run.faults.append(fault)
    assert broken() == ["unexplained duplicates"]

    run.faults[0] = replace(fault, may_repeat=frozenset({run.ledger[1]["delivery"]}))
    assert broken() == []

    # What was received after the fault is not repeated for it.
    run.faults[0].repeats_until = START + 4.5
    assert broken() == ["unexplained duplicates"]


def test_wrong_recipient(run: Run, broken: Callable[[], list[str]]) -> None:
    run.came("second", START + 5, path="/bob")

    assert broken() == ["wrong recipient"]


def test_wrong_signature(run: Run, broken: Callable[[], list[str]]) -> None:
    run.ledger.pop()
    run.came("second", START + 5, secret=OTHER)

    assert broken() == ["signature does not fit"]


def test_secret_that_was_replaced(run: Run, broken: Callable[[], list[str]]) -> None:
    run.recipients[0].secrets.append(Secret(OTHER, START))

    assert broken() == ["signature does not fit"]


def test_other_data_than_was_saved(run: Run, broken: Callable[[], list[str]]) -> None:
    run.causes[1].expected[0].data["content"] = "bye"

    assert broken() == ["data differ"]


def test_two_events_for_one_cause(run: Run, broken: Callable[[], list[str]]) -> None:
    run.request(START + 6, "/ada", "evt_2nd", {"id": "second", "content": "hello"}, SECRET)

    assert "announced in two versions" in broken()


def test_sent_while_off(run: Run, broken: Callable[[], list[str]]) -> None:
    run.recipients[0].off = [Span(START + 3.1, START + 3.2), Span(START + 90, START + 91)]
    run.came("second", START + 9)

    assert "sent while off" in broken()


def test_timestamp_far_from_the_arrival(run: Run, broken: Callable[[], list[str]]) -> None:
    run.ledger[1]["at"] += 10

    assert broken() == ["timestamp is off"]


def test_secret_that_signs_beside_its_successor_for_too_long(
    run: Run, broken: Callable[[], list[str]]
) -> None:
    ada = run.recipients[0]
    ada.secrets = [Secret(OTHER, 0.0, dead_from=START + 10), Secret(SECRET, START - 10)]
    for line in run.ledger:
        other = sign_standard(
            [load_key(OTHER)], line["event"], int(line["timestamp"]), line["body"].encode()
        )
        line["standard"] += f" {other}"
    assert broken() == []

    ada.secrets[0].dead_from = START
    assert broken() == ["signed with a dead secret"]


def test_delivery_that_nobody_could_write_while_its_worker_ended(
    run: Run, broken: Callable[[], list[str]]
) -> None:
    run.came("second", START + 30)
    delivery = run.ledger[1]["delivery"]
    lock = Fault("lock_delivery", START + 4, locked=frozenset({delivery}), lasts_until=START + 25)
    run.faults = [lock, Fault("kill_web", START + 6)]
    for fault in run.faults:
        fault.works_from = START + 60
    assert broken() == ["unexplained duplicates"]

    run.faults[1].is_end = True
    assert broken() == []


def test_redelivery_that_leaves_one_out(run: Run, broken: Callable[[], list[str]]) -> None:
    asked = frozenset(line["delivery"] for line in run.ledger)
    fault = Fault("redeliver", START + 10, may_repeat=asked, repeats_until=START + 11)
    fault.must_repeat, fault.works_from = True, START + 60
    run.faults.append(fault)
    run.came("one", START + 12)
    assert broken() == ["not redelivered"]

    run.came("second", START + 12)
    assert broken() == []


def test_feed_without_an_event(run: Run, broken: Callable[[], list[str]]) -> None:
    run.feed = run.read()[:1]

    assert broken() == ["missing in the feed"]


def test_feed_with_an_event_twice(run: Run, broken: Callable[[], list[str]]) -> None:
    run.feed = [*run.read(), run.read()[1]]

    assert broken() == ["twice in the feed"]


def test_feed_in_another_order(run: Run, broken: Callable[[], list[str]]) -> None:
    run.feed = run.read()[::-1]

    assert broken() == ["out of order in the feed"]


def test_feed_with_what_was_rolled_back(run: Run, broken: Callable[[], list[str]]) -> None:
    run.caused("undone", START, "rolled back")
    event = {"id": "evt_undone", "type": "session.message", "data": {"id": "undone"}}
    run.feed = [*run.read(), event]

    assert broken() == ["in the feed rolled back"]


def test_feed_with_another_id(run: Run, broken: Callable[[], list[str]]) -> None:
    run.feed = run.read()
    run.feed[0]["id"] = "evt_other"

    assert broken() == ["another id in the feed"]


def test_producers_that_committed_nothing_are_named(tmp_path: Path) -> None:
    outcomes: dict[str, Outcome] = {
        "causes-0-1": "committed",
        "causes-0-2": "rolled back",
        "causes-0-3": "unknown",
        "causes-1-3": "committed",
    }
    for name, outcome in outcomes.items():
        begun: dict[str, Any] = {"expected": [], "never": []}
        lines = [
            json.dumps({"cause": "a", "at": 1, **line}) for line in (begun, {"outcome": outcome})
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "causes-1-4.jsonl").touch()
    assert idle(tmp_path.iterdir()) == ["2", "4"]
