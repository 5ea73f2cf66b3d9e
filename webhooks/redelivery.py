"""Send again: named deliveries or a selection (redeliver), and events never sent (replay).

A request becomes a Redelivery row, and batches carry it out: each in one transaction that also
moves the cursor, so that it goes on after a crash where it stopped and nothing is queued twice.
Workers go on with every request that runs; a command may do so itself.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Count, Exists, Max, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from webhooks import catalog, wakeup
from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.errors import RedeliveryScopeError
from webhooks.ids import first_id_of, new_id
from webhooks.models import Delivery, Event, Pause, Redelivery, Webhook
from webhooks.models.delivery import NO_OWNER, WAITING, DeliveryQuerySet

SHOWN = 3
"""Webhooks that a warning names."""
BATCH = 5000
"""Deliveries in one transaction: about a fifth of a second, in which they are locked."""

REPEATABLE = frozenset(DeliveryStatus.values) - {DeliveryStatus.SENDING}
"""What is in flight is left alone; everything else may go (again) now."""


@dataclass(frozen=True)
class Scope:
    """Which deliveries: all conditions together. Times are those of the delivery's creation."""

    delivery_ids: tuple[UUID, ...] = ()
    webhook_id: UUID | None = None
    event_id: UUID | None = None
    event_type: str | None = None
    owner_id: UUID | None = None
    statuses: tuple[str, ...] = (DeliveryStatus.FAILED,)
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    """At most so many, the oldest first."""

    def check(self) -> None:
        """Raise RedeliveryScopeError for a scope that means everything, or nothing possible."""
        if not (self.delivery_ids or self.webhook_id or self.event_id or self.owner_id):
            raise RedeliveryScopeError
        if unknown := set(self.statuses) - REPEATABLE:
            raise RedeliveryScopeError(
                f"Not a status that can be redelivered: {', '.join(sorted(unknown))}."
            )
        if self.since and self.until and self.since > self.until:
            raise RedeliveryScopeError("The time range ends before it starts.")

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Scope":
        values = dict(stored)
        for name in ("webhook_id", "event_id", "owner_id"):
            if name in values:
                values[name] = UUID(values[name])
        for name in ("since", "until"):
            if name in values:
                values[name] = datetime.fromisoformat(values[name])
        values["delivery_ids"] = tuple(map(UUID, values.get("delivery_ids", ())))
        values["statuses"] = tuple(values.get("statuses", ()))
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return value
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def matching(scope: Scope) -> DeliveryQuerySet:
    """Return the deliveries that a redelivery of this scope would send, oldest first."""
    scope.check()
    found = Delivery.objects.filter(status__in=scope.statuses, webhook__deleted_at=None).exclude(
        event__payload=b""
    )
    if scope.delivery_ids:
        found = found.filter(id__in=scope.delivery_ids)
    for name in ("webhook_id", "event_id", "event_type", "owner_id"):
        if value := getattr(scope, name):
            found = found.filter(**{name: value})
    if scope.since:
        found = found.filter(created_at__gte=scope.since)
    if scope.until:
        found = found.filter(created_at__lt=scope.until)
    return found.order_by("id")


def warnings_of(scope: Scope) -> list[str]:
    """Return what whoever asks for this redelivery or replay should know, a sentence each.

    That is, so far: which ordered webhooks it may send to, whose order it does not keep.
    """
    webhooks = Webhook.objects.filter(deleted_at=None)
    if scope.webhook_id:
        webhooks = webhooks.filter(id=scope.webhook_id)
    elif scope.delivery_ids or scope.event_id:
        # A replay names its webhook; so these deliveries exist.
        of_webhook = Delivery.objects.filter(webhook=OuterRef("id"))
        if scope.delivery_ids:
            of_webhook = of_webhook.filter(id__in=scope.delivery_ids)
        if scope.event_id:
            of_webhook = of_webhook.filter(event_id=scope.event_id)
        webhooks = webhooks.filter(Exists(of_webhook))
    if scope.owner_id:
        webhooks = webhooks.filter(owner_id=scope.owner_id)
    return order_warnings(webhooks)


def order_warnings(webhooks: QuerySet[Webhook]) -> list[str]:
    """Return the sentence about those of the webhooks that are ordered, if any. One statement."""
    names = list(
        webhooks.filter(ordered=True).order_by("id").values_list("name", flat=True)[: SHOWN + 1]
    )
    if not names:
        return []
    named = ", ".join(names[:SHOWN]) + (" and others" if len(names) > SHOWN else "")
    return [
        f"Not in order: {named} receives its events in their order, but what is redelivered or "
        "replayed is exempt from it and can arrive in any order, also behind newer events."
    ]


def redeliver(
    scope: Scope, *, requested_by: Any = None, rate_limit: float | None = None
) -> Redelivery:
    """Ask for the deliveries of a scope to be sent once more; workers carry it out.

    Their retry budget starts anew, attempt numbers go on, and they are exempt from the order of an
    ordered webhook: warnings_of() says so. Raises RedeliveryScopeError.
    """
    scope = replace(scope, until=min(scope.until or timezone.now(), timezone.now()))
    return Redelivery.objects.create(
        scope=scope.to_json(),
        matched_count=matching(scope)[: scope.limit].count(),
        requested_by=requested_by,
        rate_limit=rate_limit,
    )


def redeliver_one(delivery: Delivery, *, requested_by: Any = None) -> Redelivery:
    """Send one delivery again, whatever became of it; raises RedeliveryScopeError if it cannot be."""
    scope = Scope(delivery_ids=(delivery.id,), statuses=tuple(sorted(REPEATABLE)))
    if not matching(scope).exists():
        raise RedeliveryScopeError(
            "This delivery cannot be sent again: it is in flight, its webhook was deleted, or its "
            "payload was erased."
        )
    redelivery = redeliver(scope, requested_by=requested_by)
    advance(redelivery.id)
    redelivery.refresh_from_db()
    return redelivery


def replay(
    webhook: Webhook,
    since: datetime | None,
    until: datetime | None = None,
    *,
    event_id: UUID | None = None,
    event_type: str | None = None,
    limit: int | None = None,
    requested_by: Any = None,
    rate_limit: float | None = None,
) -> Redelivery:
    """Ask for the deliveries of a time range that never existed: the webhook was new or disabled.

    `since` may be None where `event_id` names a single event. They are exempt from the order of an
    ordered webhook: warnings_of() says so. Raises RedeliveryScopeError.
    """
    scope = replay_scope(
        webhook, since, until, event_id=event_id, event_type=event_type, limit=limit
    )
    return Redelivery.objects.create(
        scope=scope.to_json(),
        is_replay=True,
        matched_count=missing(webhook, scope)[: scope.limit].count(),
        requested_by=requested_by,
        rate_limit=rate_limit,
    )


def replay_scope(
    webhook: Webhook,
    since: datetime | None,
    until: datetime | None = None,
    *,
    event_id: UUID | None = None,
    event_type: str | None = None,
    limit: int | None = None,
) -> Scope:
    """Return the scope of a replay, for missing(); raises RedeliveryScopeError."""
    if since is None and event_id is None:
        raise RedeliveryScopeError("Say from when on events are to be looked at, or name one.")
    scope = Scope(
        webhook_id=webhook.id,
        event_id=event_id,
        event_type=event_type,
        since=since,
        until=min(until or timezone.now(), timezone.now()),
        limit=limit,
        statuses=(),
    )
    scope.check()
    return scope


def missing(webhook: Webhook, scope: Scope) -> QuerySet[Event]:
    """Return the events of a time range that this webhook selects and has no delivery of."""
    types = [one.name for one in catalog.all_types() if webhook.receives(one.name)]
    if scope.event_type:
        types = [name for name in types if name == scope.event_type]
    found = Event.objects.filter(type__in=types).exclude(payload=b"")
    if scope.event_id:
        found = found.filter(id=scope.event_id)
    if webhook.is_platform:
        found = found.filter(is_self_reported=False)
    else:
        found = found.filter(owner_id=webhook.owner_id)
    if scope.since:
        found = found.filter(id__gte=first_id_of(scope.since), created_at__gte=scope.since)
    if scope.until:
        found = found.filter(created_at__lt=scope.until)
    exists = Exists(Delivery.objects.filter(webhook=webhook, event_id=OuterRef("id")))
    return found.exclude(exists)


def webhooks_missing(event: Event) -> list[Webhook]:
    """Return the webhooks that select an event now and have no delivery of it."""
    found = Webhook.objects.receiving(event).exclude(
        Exists(Delivery.objects.filter(webhook=OuterRef("id"), event_id=event.id))
    )
    return [webhook for webhook in found.order_by("id") if webhook.receives(event.type)]


def run(redelivery_id: UUID) -> None:
    """Carry a redelivery out to its end."""
    while advance(redelivery_id):
        pass


def advance_all() -> bool:
    """Carry out one batch of every redelivery that runs; returns whether more is to be done."""
    running = Redelivery.objects.filter(status=Redelivery.Status.RUNNING).values_list(
        "id", flat=True
    )
    has_more = False
    for redelivery_id in list(running):
        has_more |= advance(redelivery_id)
    return has_more


def advance(redelivery_id: UUID) -> bool:
    """Carry out one batch; returns whether more is to be done. Any number may try at once."""
    with transaction.atomic():
        redelivery = (
            Redelivery.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(id=redelivery_id, status=Redelivery.Status.RUNNING)
            .first()
        )
        if redelivery is None:
            return False
        scope = Scope.from_json(redelivery.scope)
        count = BATCH
        if scope.limit is not None:
            count = min(BATCH, max(scope.limit - redelivery.queued_count, 0))
        work = _create_missing if redelivery.is_replay else _repeat
        ids = work(redelivery, scope, count)
        if len(ids) < BATCH:
            redelivery.status = Redelivery.Status.DONE
            redelivery.finished_at = timezone.now()
        if ids:
            redelivery.cursor = ids[-1]
        redelivery.save(update_fields=["status", "finished_at", "cursor", "queued_count"])
        transaction.on_commit(wakeup.nudge, robust=True)
        return redelivery.status == Redelivery.Status.RUNNING


# The events are locked against an erasure (webhooks/retention.py): nothing goes out empty.
REPEAT_SQL = """
WITH kept AS MATERIALIZED (
    SELECT e.id FROM webhooks_event e
     WHERE e.id = ANY(ARRAY(SELECT event_id FROM webhooks_delivery WHERE id = ANY(%(ids)s)))
       AND e.payload <> ''
       FOR SHARE
)
UPDATE webhooks_delivery d
   SET status = 'PENDING', round = d.round + 1, attempts_before_round = d.attempt_count,
       next_attempt_at = clock_timestamp()
           + make_interval(secs => coalesce((%(before)s + picked.position - 1) / %(rate)s, 0)),
       finished_at = NULL, order_key = NULL, is_suspect = false, crash_count = 0,
       redelivery_id = %(redelivery)s
  FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS picked (id, position)
 WHERE d.id = picked.id AND d.status = ANY(%(statuses)s) AND d.claimed_by IS NULL
   AND d.event_id IN (SELECT id FROM kept)
"""


def _repeat(redelivery: Redelivery, scope: Scope, count: int) -> list[UUID]:
    found = matching(scope).exclude(redelivery_id=redelivery.id)
    if redelivery.cursor:
        found = found.filter(id__gt=redelivery.cursor)
    ids = list(found.values_list("id", flat=True)[:count])
    with connection.cursor() as cursor:
        cursor.execute(
            REPEAT_SQL,
            {
                "ids": ids,
                "statuses": list(scope.statuses),
                "redelivery": redelivery.id,
                "before": redelivery.queued_count,
                "rate": redelivery.rate_limit,
            },
        )
        redelivery.queued_count += cursor.rowcount
    return ids


# Kept true: the audit holds it against the deliveries that exist (webhooks/audit.py).
RECOUNT_SQL = """
UPDATE webhooks_event e
   SET fanout_count = greatest(e.fanout_count,
           (SELECT count(*) FROM webhooks_delivery d WHERE d.event_id = e.id))
 WHERE e.id = ANY(%(ids)s)
"""


def _create_missing(redelivery: Redelivery, scope: Scope, count: int) -> list[UUID]:
    webhook = Webhook.objects.filter(id=str(scope.webhook_id), deleted_at=None).first()
    if webhook is None:
        return []
    found = missing(webhook, scope).order_by("id")
    if redelivery.cursor:
        found = found.filter(id__gt=redelivery.cursor)
    # Locked, so that a purge does not take an event away from under its new delivery.
    events = list(found.select_for_update(no_key=True).values_list("id", "type")[:count])
    ids = [event_id for event_id, _ in events]
    created = Delivery.objects.bulk_create(
        [
            Delivery(
                id=new_id(),
                event_id=event_id,
                webhook=webhook,
                owner_id=webhook.owner_id or NO_OWNER,
                event_type=event_type,
                redelivery=redelivery,
            )
            for event_id, event_type in events
        ],
        ignore_conflicts=True,
    )
    with connection.cursor() as cursor:
        cursor.execute(RECOUNT_SQL, {"ids": ids})
    redelivery.queued_count += len(created)
    return ids


def cancel(redelivery: Redelivery) -> bool:
    """Stop a redelivery; what it has queued is still sent. False when it has ended already."""
    return bool(
        Redelivery.objects.filter(id=redelivery.id, status=Redelivery.Status.RUNNING).update(
            status=Redelivery.Status.CANCELLED, finished_at=timezone.now()
        )
    )


@dataclass(frozen=True)
class Progress:
    """How far the deliveries of a redelivery have come."""

    matched: int
    queued: int
    succeeded: int
    failed: int
    retrying: int = 0
    """Failed once more and will be tried again."""
    held: int = 0
    """Wait for a webhook that is switched off, fails or asked for time, or for the end of a pause."""
    held_for_now: int = 0
    """Of these, all but those of a webhook that is switched off: they go on by themselves."""

    @property
    def is_over(self) -> bool:
        return self.succeeded + self.failed >= self.queued

    @property
    def is_answered(self) -> bool:
        """Whether nothing is left whose answer is still to come soon."""
        return self.succeeded + self.failed + self.retrying + self.held >= self.queued


PATIENCE = timedelta(seconds=30)
"""A webhook that asked for less time than this is waited for."""
IS_OFF = Q(status__in=WAITING) & ~Q(webhook__active=True, webhook__deleted_at=None)
IS_STOPPED = Q(status=DeliveryStatus.PENDING) & (
    Q(Exists(Pause.objects.all()))
    | (~Q(webhook__breaker_state=BreakerState.CLOSED) & Q(webhook__breaker_probe_at__gt=Now()))
    | Q(webhook__held_until__gt=Now() + PATIENCE)
)
SUCCEEDED = Count("id", filter=Q(status=DeliveryStatus.SUCCESS))
FAILED = Count("id", filter=Q(status__in=(DeliveryStatus.FAILED, DeliveryStatus.CANCELLED)))
RETRYING = Count("id", filter=Q(status=DeliveryStatus.RETRYING) & ~IS_OFF)
HELD = Count("id", filter=IS_OFF | IS_STOPPED)
HELD_FOR_NOW = Count("id", filter=IS_STOPPED & ~IS_OFF)


def progress(redelivery: Redelivery) -> Progress:
    """Return the present counts of a redelivery."""
    counts = Delivery.objects.filter(redelivery=redelivery).aggregate(
        succeeded=SUCCEEDED,
        failed=FAILED,
        retrying=RETRYING,
        held=HELD,
        held_for_now=HELD_FOR_NOW,
    )
    return Progress(redelivery.matched_count, redelivery.queued_count, **counts)


@dataclass(frozen=True)
class WebhookOutcome:
    """What became of one webhook's part of a redelivery."""

    webhook_id: UUID
    name: str
    queued: int
    succeeded: int
    failed: int
    retrying: int
    held: int
    last_error: str
    """Of any that failed or is retried, or empty."""


def outcomes(redelivery: Redelivery) -> list[WebhookOutcome]:
    """Return what became of a redelivery by webhook, the largest part first. One statement."""
    rows = (
        Delivery.objects.filter(redelivery=redelivery)
        .values("webhook_id", "webhook__name")
        .annotate(
            queued=Count("id"),
            succeeded=SUCCEEDED,
            failed=FAILED,
            retrying=RETRYING,
            held=HELD,
            last_error=Max(
                "error", filter=~Q(status__in=(DeliveryStatus.SUCCESS, DeliveryStatus.PENDING))
            ),
        )
        .order_by("-queued", "webhook_id")
    )
    return [
        WebhookOutcome(
            row["webhook_id"],
            row["webhook__name"],
            row["queued"],
            row["succeeded"],
            row["failed"],
            row["retrying"],
            row["held"],
            row["last_error"] or "",
        )
        for row in rows
    ]
