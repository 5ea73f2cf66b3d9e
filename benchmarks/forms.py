"""What each form and a filter cost, beside the standard form without a filter.

Stored: the time of one statement that stores an event in a transaction of its own. Sent: the processor
time of the worker and of Postgres for one delivery of a backlog.
"""

import statistics
import time
from typing import Any

from benchmarks import harness
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from webhooks import service
from webhooks.models import Delivery

STORED = 300
SENT = 6_000
PLAIN = "standard"
KINDS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "thin": {"form": "thin"},
    "fields": {"form": "fields", "data_fields": ["id", "content"]},
    "raw": {"form": "raw"},
    "cloudevents": {"form": "cloudevents"},
    "cloudevents, binary": {"form": "cloudevents-binary"},
    "standard, a filter that matches": {"filter": {"sender": "Ada Lovelace"}},
    "standard, order per object": {"order": "object"},
}
KEPT_BACK = "standard, a filter that does not match"
ANOTHER = {"filter": {"sender": "Somebody else"}}


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    stored = {name: Series(f"stored: {name}", "µs") for name in (*KINDS, KEPT_BACK)}
    sent = {name: Series(f"sent: {name}", "µs CPU") for name in KINDS}
    for _ in range(rounds):
        for name, value in _store(receiver).items():
            stored[name].values.append(value)
        for name, settings in KINDS.items():
            sent[name].values.append(_send(receiver, settings))
    return harness.show(
        f"Store {STORED:,} events one by one, and send a backlog of {SENT:,}, for each form",
        [*stored.values(), *sent.values()],
        [
            *(_beside(name, stored) for name in stored if name != PLAIN),
            *(_beside(name, sent) for name in sent if name != PLAIN),
        ],
    )


def _beside(name: str, series: dict[str, Series]) -> Goal:
    one, plain = series[name], series[PLAIN]
    return Goal(f"{one.name} / {PLAIN}", ratio(one, plain))


def _store(receiver: Receiver) -> dict[str, float]:
    """Return the median microseconds of one event of each kind, stored in turn."""
    harness.empty_tables()
    kinds = {**KINDS, KEPT_BACK: ANOTHER}
    owners = dict(zip(kinds, harness.make_owners(len(kinds)), strict=True))
    for name, settings in kinds.items():
        harness.make_webhooks([owners[name]], receiver.url, **settings)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    data = harness.message()
    for _ in range(STORED):
        for name, owner in owners.items():
            started_at = time.perf_counter()
            service.trigger_event("session.message", owner, data, object_reference="session:1")
            times[name].append(1e6 * (time.perf_counter() - started_at))
    assert Delivery.objects.count() == STORED * len(KINDS)
    return {name: statistics.median(values) for name, values in times.items()}


def _send(receiver: Receiver, settings: dict[str, Any]) -> float:
    """Return the processors' microseconds of each delivery."""
    harness.empty_tables()
    owners = harness.make_owners(50)
    harness.make_webhooks(owners, receiver.url, **settings)
    _trigger(owners)
    with harness.draining() as drain:
        harness.wait_for_deliveries(120)
        return sum(drain.used.seconds().values()) / SENT * 1e6


def _trigger(owners: list[Any]) -> None:
    data = harness.message()
    service.trigger_events(
        service.Trigger(
            "session.message", owners[number % len(owners)], data, object_reference=f"s:{number}"
        )
        for number in range(SENT)
    )
