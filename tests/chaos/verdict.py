"""Hold what the receiver wrote down against the database: what was promised, and what came."""

import hashlib
import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from sessions_app.models import SessionMessage
from tests.chaos.producer import ROLLED_BACK
from tests.chaos.world import Fault
from webhooks import signing
from webhooks.models import Delivery, Event, Webhook

UNSETTLED_SECONDS = 12.0
"""How long an attempt may have been started and not settled when a fault came: a slow answer, the
200 ms or 500 rows that settling is behind, and Postgres away in the meantime."""

LONGEST_STANDSTILL = 30.0
"""Seconds; a worker's death is noticed after ten."""


@dataclass
class Verdict:
    """The counts of a run; whatever breaks a promise is listed in `broken`."""

    events: int = 0
    acknowledged: int = 0
    """Events that the client of the HTTP API was promised."""
    deliveries: int = 0
    succeeded: int = 0
    cancelled: int = 0
    requests: int = 0
    lost: list[str] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    duplicates: int = 0
    unexplained: list[str] = field(default_factory=list)
    """Duplicates that were not started and unsettled at a fault."""
    rolled_back: list[str] = field(default_factory=list)
    """Sent though rolled back."""
    missing_events: list[str] = field(default_factory=list)
    """Committed changes without their event, or without a delivery."""
    out_of_order: list[str] = field(default_factory=list)
    bad_bytes: list[str] = field(default_factory=list)
    bad_signatures: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    standstills: list[float] = field(default_factory=list)
    """For each fault, the seconds from its beginning until an event made after that arrived."""

    @property
    def broken(self) -> dict[str, list[str]]:
        """Every broken promise by its name, with examples."""
        promises = {
            "lost": self.lost,
            "parked": self.parked,
            "unexplained duplicates": self.unexplained,
            "sent though rolled back": self.rolled_back,
            "committed without its event": self.missing_events,
            "out of order": self.out_of_order,
            "bytes differ": self.bad_bytes,
            "signature does not fit": self.bad_signatures,
            "stuck": self.stuck,
            "standstill": [
                f"{seconds:.0f} s" for seconds in self.standstills if seconds > LONGEST_STANDSTILL
            ],
        }
        return {name: examples for name, examples in promises.items() if examples}


def judge(
    ledger: Path,
    acknowledged: Path,
    faults: Sequence[Fault],
    secrets: Mapping[str, Sequence[str]],
) -> Verdict:
    """Compare the ledger, and what the HTTP API acknowledged, with the database."""
    verdict = Verdict()
    requests = [json.loads(line) for line in ledger.read_text().splitlines()]
    verdict.requests = len(requests)
    payloads = {
        event.public_id: hashlib.sha256(bytes(event.payload)).hexdigest()
        for event in Event.objects.only("id", "payload").iterator()
    }
    verdict.events = len(payloads)
    _check_requests(verdict, requests, payloads, secrets)
    _check_outbox(verdict)
    _check_acknowledged(verdict, acknowledged)
    _check_deliveries(verdict, requests)
    _check_duplicates(verdict, requests, faults)
    _check_order(verdict, requests)
    _measure_standstills(verdict, requests, faults)
    return verdict


def _check_requests(
    verdict: Verdict,
    requests: Iterable[Mapping[str, Any]],
    payloads: Mapping[str, str],
    secrets: Mapping[str, Sequence[str]],
) -> None:
    for request in requests:
        digest = payloads.get(request["event"])
        if digest is None:
            verdict.rolled_back.append(request["event"])
        elif digest != request["sha256"]:
            verdict.bad_bytes.append(request["event"])
    bodies = {
        event.public_id: bytes(event.payload)
        for event in Event.objects.filter(
            id__in=[r["event"].removeprefix("evt_") for r in list(requests)[-2000:]]
        )
    }
    for request in list(requests)[-2000:]:
        # The newest ones only: their bodies have to be in memory. Every test of a sender checks all.
        body = bodies.get(request["event"])
        if body is not None and not _is_signed(request, body, secrets):
            verdict.bad_signatures.append(request["delivery"])


def _is_signed(
    request: Mapping[str, Any], body: bytes, secrets: Mapping[str, Sequence[str]]
) -> bool:
    now = float(request["timestamp"])
    headers = {
        "webhook-id": request["event"],
        "webhook-timestamp": request["timestamp"],
        "webhook-signature": request["standard"],
        "x-webhook-timestamp": request["timestamp"],
        "x-webhook-signature": request["hex"],
    }
    known = secrets[request["path"].split("?")[0]]
    return any(signing.verify_standard(s, headers, body, now=now) for s in known) and any(
        signing.verify_hex(s, headers, body, now=now) for s in known
    )


def _check_outbox(verdict: Verdict) -> None:
    references = Event.objects.filter(type="session.message").values_list("object_reference")
    told = {reference.rpartition(":")[2] for (reference,) in references}
    for message_id in SessionMessage.objects.values_list("id", flat=True):
        if str(message_id) not in told:
            verdict.missing_events.append(f"message {message_id}")
    for event in Event.objects.filter(type="session.message").only("id", "payload").iterator():
        if ROLLED_BACK.encode() in bytes(event.payload):
            verdict.rolled_back.append(event.public_id)
    for event in Event.objects.exclude(fanout_count=0).iterator():
        verdict.deliveries += event.fanout_count
    stored = Delivery.objects.count()
    if stored != verdict.deliveries:
        verdict.missing_events.append(f"{verdict.deliveries} deliveries owed, {stored} stored")


def _check_acknowledged(verdict: Verdict, acknowledged: Path) -> None:
    """What the HTTP API said yes to is stored, and once, however often it was asked."""
    stored: defaultdict[str | None, list[str]] = defaultdict(list)
    for event in Event.objects.filter(type="payment.succeeded").only("id", "idempotency_key"):
        stored[event.idempotency_key].append(event.public_id)
    for line in acknowledged.read_text().splitlines():
        promise = json.loads(line)
        verdict.acknowledged += 1
        if stored[promise["key"]] != [promise["event"]]:
            verdict.missing_events.append(
                f"{promise} acknowledged, {stored[promise['key']]} stored"
            )
    verdict.missing_events += [f"{ids} for one key" for ids in stored.values() if len(ids) > 1]


def _check_deliveries(verdict: Verdict, requests: Iterable[Mapping[str, Any]]) -> None:
    received = {request["delivery"] for request in requests if request["good"]}
    deleted = set(Webhook.objects.exclude(deleted_at=None).values_list("id", flat=True))
    for delivery in Delivery.objects.only("id", "status", "webhook_id", "claimed_by").iterator():
        if delivery.status == "SUCCESS":
            verdict.succeeded += 1
            if delivery.public_id not in received:
                verdict.lost.append(f"{delivery.public_id} is SUCCESS and never came")
        elif delivery.status == "CANCELLED" and delivery.webhook_id in deleted:
            verdict.cancelled += 1
        elif delivery.status == "FAILED":
            verdict.parked.append(delivery.public_id)
        else:
            verdict.stuck.append(f"{delivery.public_id} is {delivery.status}")
        if delivery.claimed_by is not None:
            verdict.stuck.append(f"{delivery.public_id} is still claimed")


def _check_duplicates(
    verdict: Verdict, requests: Iterable[Mapping[str, Any]], faults: Sequence[Fault]
) -> None:
    arrivals: defaultdict[str, list[float]] = defaultdict(list)
    for request in requests:
        if request["good"]:
            arrivals[request["delivery"]].append(request["at"])
    for delivery, times in arrivals.items():
        for earlier in sorted(times)[:-1]:
            verdict.duplicates += 1
            if not any(
                earlier - UNSETTLED_SECONDS <= fault.ended_at
                and fault.started_at <= earlier + UNSETTLED_SECONDS
                for fault in faults
            ):
                verdict.unexplained.append(delivery)


def _check_order(verdict: Verdict, requests: Iterable[Mapping[str, Any]]) -> None:
    place: dict[str, tuple[str, int]] = {}
    for webhook in Webhook.objects.filter(ordered=True):
        ids = Delivery.objects.filter(webhook=webhook).order_by("epoch", "order_key", "id")
        for number, delivery_id in enumerate(ids.values_list("id", flat=True)):
            place[f"del_{delivery_id.hex}"] = (str(webhook.id), number)
    furthest: defaultdict[str, int] = defaultdict(int)
    for request in requests:
        if request["delivery"] in place:
            webhook_id, number = place[request["delivery"]]
            if number < furthest[webhook_id]:
                verdict.out_of_order.append(request["delivery"])
            furthest[webhook_id] = max(furthest[webhook_id], number)


def _measure_standstills(
    verdict: Verdict, requests: Iterable[Mapping[str, Any]], faults: Sequence[Fault]
) -> None:
    # An event's id begins with the milliseconds of its making.
    arrivals = sorted(
        (int(request["event"].removeprefix("evt_")[:12], 16) / 1000, request["at"])
        for request in requests
        if request["good"]
    )
    made_at = [made for made, _ in arrivals]
    # The first arrival of anything made then or later.
    next_arrival = list(accumulate((at for _, at in reversed(arrivals)), min))[::-1]
    for fault in faults:
        place = bisect_left(made_at, fault.started_at)
        if place < len(arrivals):
            verdict.standstills.append(next_arrival[place] - fault.started_at)
