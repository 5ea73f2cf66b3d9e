"""The demo's past: a day of six webhooks, written straight into the tables.

Its receivers have names that lead nowhere. One webhook fails and its breaker is open, one is disabled
and misses events, the others are well.
"""

import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from projects.models import User
from webhooks import catalog, service
from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.ids import DELIVERY_PREFIX, first_id_of
from webhooks.models import Attempt, Delivery, Event, Redelivery, Webhook
from webhooks.models.owner_keys import NO_OWNER
from webhooks.repair import audit_log
from webhooks.repair.redelivery_scope import Scope

ANSWER_HEAD = b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nServer: nginx\r\nX-Request-Id: 7f3c\r\n\r\n"


@dataclass(frozen=True)
class Character:
    """How a webhook behaves."""

    name: str
    url: str
    events: Sequence[str]
    per_hour: int
    failing_share: float = 0.0
    fails_since_hours: int = 24
    error: tuple[int | None, str, str] = (503, "http_status", "The receiver answered 503.")
    speed_ms: int = 60
    held: int = 0
    """Deliveries that were never sent, because its breaker is open or it is disabled."""
    disabled_hours: int = 0
    """How long it has been disabled; it misses the events of that time."""


CAST = (
    Character("Billing sync", "https://hooks.acme.example/remotedev", ["payment.*", "subscription.*"], 14),
    Character("Session archive", "https://archive.globex.example/in", ["session.*", "recording.*"], 40),
    Character(
        "CI trigger", "https://ci.initech.example/hooks/rd", ["session.ended"], 22,
        failing_share=0.9, fails_since_hours=8, held=14,
    ),
    Character(
        "Slack relay", "https://relay.umbrella.example/slack", ["agent.*", "storage.*"], 9,
        failing_share=0.25, fails_since_hours=9,
        error=(429, "http_status", "The receiver answered 429 (too many requests)."), speed_ms=320,
    ),
    Character("Data lake", "https://ingest.hooli.example/v2/events", ["*"], 70, speed_ms=24),
    Character(
        "Old staging", "https://staging.initech.example/hook", ["project.*"], 6,
        failing_share=1.0, fails_since_hours=20,
        error=(None, "tls", "The receiver's TLS certificate has expired."),
        held=3, disabled_hours=6,
    ),
)  # fmt: skip


OWNERS = "demo-owner-"


def uuid_at(moment: datetime, chance: random.Random) -> uuid.UUID:
    """An id as it would have been made then."""
    return uuid.UUID(int=first_id_of(moment).int | chance.getrandbits(62))


def build(now: datetime | None = None) -> dict[str, Webhook]:
    """Replace the cast's history by one of the last 24 hours; return its webhooks by name."""
    forget()
    chance = random.Random(7)
    now = now or timezone.now()
    webhooks = {}
    for number, character in enumerate(CAST):
        domain = character.url.split("/")[2].split(".", 1)[1]
        owner, _ = User.objects.get_or_create(
            username=f"{OWNERS}{number % 4}", defaults={"email": f"dev{number % 4}@{domain}"}
        )
        webhook = service.create_webhook(
            owner, name=character.name, url=character.url, events=list(character.events)
        )
        webhooks[character.name] = webhook
        _write_day(webhook, character, now, chance)
        _write_held(webhook, character, now, chance)
    _set_states(webhooks, now)
    _write_operations(webhooks)
    return webhooks


def forget() -> None:
    """Delete the cast with its history."""
    owners = User.objects.filter(username__in=[f"{OWNERS}{number}" for number in range(4)])
    webhooks = Webhook.objects.filter(owner__in=owners)
    deliveries = Delivery.objects.filter(webhook__in=webhooks)
    Attempt.objects.filter(delivery__in=deliveries)._raw_delete(using="default")
    deliveries._raw_delete(using="default")
    Event.objects.filter(owner_id__in=owners.values("pk"))._raw_delete(using="default")
    Redelivery.objects.filter(scope__webhook_id__in=[str(one.pk) for one in webhooks]).delete()
    webhooks.delete()


def _write_operations(webhooks: dict[str, Webhook]) -> None:
    """What operators did meanwhile."""
    relay, old = webhooks["Slack relay"], webhooks["Old staging"]
    audit_log.record("webhook.change", relay, changes={"timeout_seconds": [15, 5]})
    audit_log.record(
        "webhook.test", old,
        changes={
            "event_type": "project.created", "response_code": None, "duration_ms": 212,
            "error": "The receiver's TLS certificate has expired.",
        },
    )  # fmt: skip
    done = Delivery.objects.filter(webhook=relay, status=DeliveryStatus.SUCCESS).order_by("-id")[:9]
    scope = Scope(delivery_ids=tuple(one.pk for one in done), webhook_id=relay.pk)
    redelivery = Redelivery.objects.create(
        scope=scope.to_json(), matched_count=9, queued_count=9, status=Redelivery.Status.DONE,
        finished_at=timezone.now(),
    )  # fmt: skip
    Delivery.objects.filter(pk__in=[one.pk for one in done]).update(redelivery=redelivery)


def _set_states(webhooks: dict[str, Webhook], now: datetime) -> None:
    broken, slow, old = (webhooks[name] for name in ("CI trigger", "Slack relay", "Old staging"))
    Webhook.objects.filter(pk=broken.pk).update(
        failing_since=now - timedelta(hours=8), breaker_state=BreakerState.OPEN,
        breaker_failures=48, breaker_probes=9, breaker_probe_at=now + timedelta(minutes=4),
    )  # fmt: skip
    Webhook.objects.filter(pk=slow.pk).update(failing_since=now - timedelta(minutes=11))
    Webhook.objects.filter(pk=old.pk).update(
        active=False, disabled_at=now - timedelta(hours=6),
        disabled_reason="No delivery succeeded for 5 days.",
    )  # fmt: skip


def _write_day(
    webhook: Webhook, character: Character, now: datetime, chance: random.Random
) -> None:
    types = [one.name for one in catalog.all_types() if webhook.receives(one.name)]
    events, deliveries, attempts = [], [], []
    for hour in range(24):
        busy = character.per_hour * (0.45 + 0.55 * abs(((hour + 6) % 24) - 12) / 12)
        for _ in range(max(1, round(busy * chance.uniform(0.8, 1.2)))):
            moment = now - timedelta(hours=hour, seconds=chance.uniform(20, 3500))
            fails = hour < character.fails_since_hours and chance.random() < character.failing_share
            event = build_event(webhook, chance.choice(types), moment, chance)
            events.append(event)
            if hour < character.disabled_hours:
                event.fanout_count = 0
                continue
            delivery = _build_delivery(event, webhook, moment, chance, fails, hour, character)
            deliveries.append(delivery)
            attempts += _build_attempts(delivery, webhook, moment, chance, character)
    Event.objects.bulk_create(events)
    Delivery.objects.bulk_create(deliveries)
    Attempt.objects.bulk_create(attempts)


def _write_held(
    webhook: Webhook, character: Character, now: datetime, chance: random.Random
) -> None:
    types = [one.name for one in catalog.all_types() if webhook.receives(one.name)]
    for number in range(character.held):
        moment = now - timedelta(hours=character.disabled_hours, minutes=2 * number + 1)
        event = build_event(webhook, chance.choice(types), moment, chance)
        event.save(force_insert=True)
        Delivery.objects.create(
            id=uuid_at(moment, chance), event=event, webhook=webhook,
            owner_id=webhook.owner_id or NO_OWNER, event_type=event.type, created_at=moment,
            next_attempt_at=moment,
        )  # fmt: skip


def build_event(
    webhook: Webhook, event_type: str, moment: datetime, chance: random.Random
) -> Event:
    data = dict(catalog.get_type(event_type).example)
    event_id = uuid_at(moment, chance)
    envelope = {
        "id": f"evt_{event_id.hex}",
        "type": event_type,
        "created": catalog.wire_time(moment),
        "data": data,
    }
    payload = json.dumps(envelope, separators=(",", ":")).encode()
    return Event(
        id=event_id, type=event_type, owner_id=webhook.owner_id, payload=payload, fanout_count=1,
        object_reference=f"session:{uuid_at(moment, chance)}", created_at=moment,
    )  # fmt: skip


def _build_delivery(
    event: Event, webhook: Webhook, moment: datetime, chance: random.Random, fails: bool,
    hours_ago: int, character: Character,
) -> Delivery:  # fmt: skip
    values: dict[str, Any] = {
        "status": DeliveryStatus.SUCCESS, "attempt_count": 1, "response_code": 200,
        "delivered_at": moment + timedelta(milliseconds=chance.lognormvariate(3.4, 0.5)),
        "next_attempt_at": None,
    }  # fmt: skip
    values["finished_at"] = values["delivered_at"]
    if fails:
        code, kind, error = character.error
        is_over = hours_ago >= 1 and chance.random() < 0.7
        values = {
            "status": DeliveryStatus.FAILED if is_over else DeliveryStatus.RETRYING,
            "attempt_count": 11 if is_over else chance.randint(2, 6),
            "response_code": code, "failure_kind": kind, "error": error,
            "finished_at": moment + timedelta(hours=1) if is_over else None,
            "next_attempt_at": None if is_over else timezone.now() + timedelta(minutes=chance.randint(1, 90)),
        }  # fmt: skip
    return Delivery(
        id=uuid_at(moment, chance), event=event, webhook=webhook, owner_id=webhook.owner_id or NO_OWNER,
        event_type=event.type, created_at=moment, **values,
    )  # fmt: skip


def _build_attempts(
    delivery: Delivery,
    webhook: Webhook,
    moment: datetime,
    chance: random.Random,
    character: Character,
) -> list[Attempt]:
    head = "\n".join(
        [
            "Content-Type: application/json",
            "User-Agent: RemoteDevAI-Webhooks/1.0",
            f"webhook-id: {json.loads(bytes(delivery.event.payload))['id']}",
            f"webhook-timestamp: {int(moment.timestamp())}",
            "webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
            f"X-Webhook-Event: {delivery.event_type}",
            f"X-Webhook-Delivery: {DELIVERY_PREFIX}{delivery.id.hex}",
        ]
    )
    attempts = []
    for number in range(1, min(delivery.attempt_count, 4) + 1):
        failed = bool(delivery.failure_kind)
        started_at = moment + timedelta(seconds=60 * (2 ** (number - 1) - 1))
        reason = {200: b"OK", 429: b"Too Many Requests", 503: b"Service Unavailable"}
        code = delivery.response_code
        body = b'{"ok":true}' if code == 200 else b'{"error":"upstream unavailable","retry":true}'
        attempts.append(
            Attempt(
                id=uuid_at(started_at, chance), delivery=delivery, number=number,
                started_at=started_at, url=webhook.url,
                duration_ms=int(chance.lognormvariate(0, 0.4) * character.speed_ms) + 3,
                request_head=head, response_code=code,
                response_head=None if code is None else ANSWER_HEAD % (code, reason.get(code, b"")),
                response_body=None if code is None else body,
                failure_kind=delivery.failure_kind if failed else "",
                error=delivery.error if failed else "",
            )
        )  # fmt: skip
    return attempts
