"""Send again: named deliveries or a selection (redeliver), and events never sent (replay).

A request becomes a Redelivery row, and batches carry it out: each in one transaction that also
moves the cursor, so that it goes on after a crash where it stopped and nothing is queued twice.
Workers go on with every request that runs; a command may do so itself.

A batch waits for no row that somebody else has locked: it passes over it and comes back. A request
that cannot be carried out is marked as failed, with the reason, and holds up no other.
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import (
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connection,
    transaction,
)
from django.db.models import Count, Exists, F, Max, OuterRef, Q, QuerySet, Window
from django.db.models.functions import Now, RowNumber
from django.utils import timezone

from webhooks import catalog
from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.errors import RedeliveryScopeError
from webhooks.ids import first_id_of, new_id
from webhooks.models import Delivery, Event, Pause, Redelivery, RedeliveryTakeover, Webhook
from webhooks.models.delivery import COUNTED_AT_MOST, NO_OWNER, WAITING, DeliveryQuerySet
from webhooks.outbox import wakeup
from webhooks.postgres.sql import limited_transaction
from webhooks.repair.chores import in_one_line

logger = logging.getLogger(__name__)

SHOWN = 3
"""Webhooks that a warning names."""
BATCH = 5000
"""Deliveries in one transaction: about a fifth of a second, in which they are locked."""
TURN_SECONDS = 1.0
"""How long one turn of housekeeping goes on with redeliveries, once each person had a batch."""
LONGEST_TURN_SECONDS = 5.0
AT_ONCE = 100
"""Redeliveries that one turn looks at."""
LOOK_AGAIN = timedelta(seconds=1)
"""How soon a redelivery comes back to rows that were locked."""
MOST_FAILURES = 10
"""Batches that Postgres refuses, one after the other, until the redelivery is given up."""
LONGEST_PAUSE_SECONDS = 300

REPEATABLE = frozenset(DeliveryStatus.values) - {DeliveryStatus.SENDING}
"""What is in flight is left alone; everything else may go (again) now."""


@dataclass(frozen=True)
class Scope:
    """Which deliveries: all conditions together. Times are those of the delivery's creation."""

    delivery_ids: tuple[UUID, ...] | None = None
    """None for all that fit the rest; an empty tuple names none."""
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
        is_named = self.delivery_ids is not None
        if not (is_named or self.webhook_id or self.event_id or self.owner_id):
            raise RedeliveryScopeError
        if unknown := set(self.statuses) - REPEATABLE:
            raise RedeliveryScopeError(
                f"Not a status that can be redelivered: {', '.join(sorted(unknown))}."
            )
        if self.since and self.until and self.since > self.until:
            raise RedeliveryScopeError("The time range ends before it starts.")

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Scope":
        values = dict(stored)
        for name in ("webhook_id", "event_id", "owner_id"):
            if name in values:
                values[name] = UUID(values[name])
        for name in ("since", "until"):
            if name in values:
                values[name] = datetime.fromisoformat(values[name])
        if "delivery_ids" in values:
            values["delivery_ids"] = tuple(map(UUID, values["delivery_ids"]))
        values["statuses"] = tuple(values.get("statuses", ()))
        return cls(**values)


def scope_of(asked: Redelivery) -> Scope | None:
    """Return what was asked for; None where another version wrote it and this cannot read it."""
    try:
        return Scope.from_json(asked.scope)
    except (AttributeError, TypeError, ValueError):
        return None


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
    if scope.delivery_ids is not None:
        found = found.filter(id__in=scope.delivery_ids)
    for name in ("webhook_id", "event_id", "event_type", "owner_id"):
        if value := getattr(scope, name):
            found = found.filter(**{name: value})
    if scope.since:
        found = found.filter(created_at__gte=scope.since)
    if scope.until:
        found = found.filter(created_at__lt=scope.until)
    return found.order_by("id")


def warnings_of(scope: Scope | None) -> list[str]:
    """Return what whoever asks for this redelivery or replay should know, a sentence each.

    That is, so far: which ordered webhooks it may send to, whose order it does not keep.
    """
    if scope is None:
        return []
    webhooks = Webhook.objects.filter(deleted_at=None)
    if scope.webhook_id:
        webhooks = webhooks.filter(id=scope.webhook_id)
    elif scope.delivery_ids is not None or scope.event_id:
        # A replay names its webhook; so these deliveries exist.
        of_webhook = Delivery.objects.filter(webhook=OuterRef("id"))
        if scope.delivery_ids is not None:
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
        matched_count=_count(matching(scope), scope),
        requested_by=requested_by,
        rate_limit=rate_limit,
    )


def _count(found: QuerySet[Any], scope: Scope) -> int:
    most = COUNTED_AT_MOST + 1
    return found.order_by()[: min(scope.limit or most, most)].count()


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
        matched_count=_count(missing(webhook, scope), scope),
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
    """Carry out batches of those that run, in turn, for a second; returns whether more is to be done.

    Every person gets a batch before anybody gets a second one; among a person's requests the one that
    has waited longest comes first.
    """
    started_at = time.monotonic()
    has_more = False
    for redelivery_id, place in _due():
        seconds = time.monotonic() - started_at
        if seconds > (TURN_SECONDS if place > 1 else LONGEST_TURN_SECONDS):
            return True
        has_more |= advance(redelivery_id)
    return has_more


def _due() -> list[tuple[UUID, int]]:
    """Return redeliveries and, from 1, their places in the line of the person who asked."""
    due = Redelivery.objects.filter(status=Redelivery.Status.RUNNING, due_at__lte=Now())
    place = Window(RowNumber(), partition_by=F("requested_by"), order_by="due_at")
    in_turn = due.annotate(place=place).order_by("place", "due_at")
    return list(in_turn.values_list("id", "place")[:AT_ONCE])


def advance(redelivery_id: UUID) -> bool:
    """Carry out one batch; returns whether more is to be done at once. Any number may try.

    What cannot be carried out is marked as failed. Raises only the errors of a database that is away.
    """
    try:
        return _advance(redelivery_id)
    except RedeliveryScopeError as problem:
        _give_up(redelivery_id, str(problem))
    except REFUSALS as problem:
        # A statement of this one was refused or ended; that of the next one need not be.
        is_cut_off = not connection.is_usable()
        if is_cut_off:
            connection.close()
        _postpone(redelivery_id, in_one_line(problem))
        if is_cut_off:
            raise
    except Exception as problem:
        # The failure becomes the row's, so that the others go on.
        logger.exception("Redelivery %s failed.", redelivery_id)
        _give_up(redelivery_id, in_one_line(problem))
    return False


REFUSALS = (OperationalError, ProgrammingError, InterfaceError)
"""What Postgres may think better of: a time-out, a deadlock, a table that is being migrated."""


def _postpone(redelivery_id: UUID, reason: str) -> None:
    """Try again after a growing pause, or give it up after the last of them."""
    with limited_transaction():
        redelivery = _lock(redelivery_id)
        if redelivery is None:
            return
        if redelivery.failures + 1 >= MOST_FAILURES:
            _give_up(redelivery_id, reason)
            return
        pause = min(2**redelivery.failures, LONGEST_PAUSE_SECONDS)
        Redelivery.objects.filter(id=redelivery_id).update(
            failures=F("failures") + 1, due_at=Now() + timedelta(seconds=pause), error=reason
        )


def _give_up(redelivery_id: UUID, reason: str) -> None:
    with limited_transaction():
        if _lock(redelivery_id) is not None:
            Redelivery.objects.filter(id=redelivery_id).update(
                status=Redelivery.Status.FAILED, finished_at=timezone.now(), error=reason
            )


def _lock(redelivery_id: UUID) -> Redelivery | None:
    """Lock a redelivery that runs; None where it does not, or somebody else has locked it."""
    running = Redelivery.objects.filter(id=redelivery_id, status=Redelivery.Status.RUNNING)
    return running.select_for_update(skip_locked=True, of=("self",), no_key=True).first()


def _advance(redelivery_id: UUID) -> bool:
    with limited_transaction():
        redelivery = _lock(redelivery_id)
        if redelivery is None:
            return False
        scope = Scope.from_json(redelivery.scope)
        webhook = _webhook_of(scope)
        wanted = BATCH
        if scope.limit is not None:
            taken = redelivery.queued_count + len(redelivery.passed_over)
            wanted = max(min(BATCH, scope.limit - taken), 0)
        room = min(wanted, BATCH - len(redelivery.passed_over))
        found = _next_ids(redelivery, scope, webhook, room)
        _queue(redelivery, scope, webhook, [*redelivery.passed_over, *found])
        is_at_end = len(found) < room or room == wanted < BATCH
        if found:
            redelivery.cursor = found[-1]
        if is_at_end and not redelivery.passed_over:
            redelivery.status = Redelivery.Status.DONE
            redelivery.finished_at = timezone.now()
        redelivery.matched_count = max(redelivery.matched_count, redelivery.queued_count)
        redelivery.failures, redelivery.error = 0, ""
        # Only locks of others are left, or the next batch goes behind those of other redeliveries.
        is_waiting = is_at_end or room == 0
        redelivery.due_at = Now() + (LOOK_AGAIN if is_waiting else timedelta(0))
        redelivery.save(update_fields=ADVANCED)
        transaction.on_commit(wakeup.nudge, robust=True)
        return not is_waiting


ADVANCED = [
    "status", "finished_at", "cursor", "passed_over", "matched_count", "queued_count", "due_at",
    "failures", "error",
]  # fmt: skip


def _webhook_of(scope: Scope) -> Webhook | None:
    """Return the webhook that a scope names, if it does; raises RedeliveryScopeError."""
    if scope.webhook_id is None:
        return None
    webhook = Webhook.objects.filter(id=scope.webhook_id, deleted_at=None).first()
    if webhook is None:
        raise RedeliveryScopeError("The webhook was deleted.")
    return webhook


def _next_ids(
    redelivery: Redelivery, scope: Scope, webhook: Webhook | None, count: int
) -> list[UUID]:
    """Return the next deliveries behind the cursor, or for a replay the next events."""
    found: QuerySet[Any]
    if redelivery.is_replay:
        if webhook is None:
            raise RedeliveryScopeError("A replay needs a webhook.")
        found = missing(webhook, scope).order_by("id")
    else:
        found = matching(scope).exclude(redelivery_id=redelivery.id)
    if redelivery.cursor:
        found = found.filter(id__gt=redelivery.cursor)
    return list(found.values_list("id", flat=True)[:count])


def _queue(
    redelivery: Redelivery, scope: Scope, webhook: Webhook | None, ids: Sequence[UUID]
) -> None:
    """Queue what is not locked by others, and note the rest in `passed_over`."""
    if redelivery.is_replay and webhook is not None:
        queued, redelivery.passed_over = _create_missing(redelivery, webhook, scope, ids)
    else:
        queued, redelivery.passed_over = _repeat(redelivery, scope, ids)
    redelivery.queued_count += queued


# Nothing here waits for a lock: neither for one of a stranger nor for one of a redelivery of the same
# rows, whichever way round. The events are locked against an erasure (webhooks/repair/retention.py): nothing
# goes out empty.
REPEAT_SQL = """
WITH picked AS MATERIALIZED (
    SELECT d.id, d.event_id, position
      FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS p (id, position)
      JOIN webhooks_delivery d USING (id)
     WHERE d.status = ANY(%(statuses)s) AND d.claimed_by IS NULL
       AND d.redelivery_id IS DISTINCT FROM %(redelivery)s
), free AS MATERIALIZED (
    SELECT d.id, d.redelivery_id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(SELECT id FROM picked))
       AND d.status = ANY(%(statuses)s) AND d.claimed_by IS NULL
     ORDER BY d.id FOR UPDATE SKIP LOCKED
), kept AS MATERIALIZED (
    SELECT e.id, e.payload <> '' AS is_whole FROM webhooks_event e
     WHERE e.id = ANY(ARRAY(SELECT event_id FROM picked))
     ORDER BY e.id FOR SHARE SKIP LOCKED
), taken AS (
    INSERT INTO webhooks_redeliverytakeover (redelivery_id, delivery_id)
    SELECT free.redelivery_id, picked.id
      FROM picked JOIN free USING (id) JOIN kept ON kept.id = picked.event_id AND kept.is_whole
     WHERE free.redelivery_id IS NOT NULL
    ON CONFLICT DO NOTHING
), queued AS (
    UPDATE webhooks_delivery d
       SET status = 'PENDING', round = d.round + 1, attempts_before_round = d.attempt_count,
           next_attempt_at = clock_timestamp()
               + make_interval(secs => coalesce((%(before)s + picked.position - 1) / %(rate)s, 0)),
           finished_at = NULL, order_key = NULL, is_suspect = false, crash_count = 0,
           redelivery_id = %(redelivery)s
      FROM picked JOIN free USING (id) JOIN kept ON kept.id = picked.event_id AND kept.is_whole
     WHERE d.id = picked.id
    RETURNING d.id
)
SELECT (SELECT count(*) FROM queued),
       ARRAY(SELECT picked.id FROM picked LEFT JOIN free USING (id)
                    LEFT JOIN kept ON kept.id = picked.event_id
              WHERE free.id IS NULL OR kept.id IS NULL ORDER BY picked.position)
"""


def _repeat(redelivery: Redelivery, scope: Scope, ids: Sequence[UUID]) -> tuple[int, list[UUID]]:
    """Queue deliveries once more; returns how many, and which of them are locked by others."""
    if not ids:
        return 0, []
    with connection.cursor() as cursor:
        cursor.execute(
            REPEAT_SQL,
            {
                "ids": list(ids),
                "statuses": list(scope.statuses),
                "redelivery": redelivery.id,
                "before": redelivery.queued_count,
                "rate": redelivery.rate_limit,
            },
        )
        queued, locked = cursor.fetchone()
    return queued, locked


# Kept true: the audit holds it against the deliveries that exist (webhooks/repair/integrity.py).
RECOUNT_SQL = """
UPDATE webhooks_event e
   SET fanout_count = greatest(e.fanout_count,
           (SELECT count(*) FROM webhooks_delivery d WHERE d.event_id = e.id))
 WHERE e.id = ANY(%(ids)s)
"""


def _create_missing(
    redelivery: Redelivery, webhook: Webhook, scope: Scope, ids: Sequence[UUID]
) -> tuple[int, list[UUID]]:
    """Create deliveries of events; returns how many, and which events are locked by others."""
    found = missing(webhook, scope).filter(id__in=ids).order_by("id")
    # Locked, so that a purge does not take an event away from under its new delivery.
    free = list(found.select_for_update(no_key=True, skip_locked=True).values_list("id", "type"))
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
            for event_id, event_type in free
        ],
        ignore_conflicts=True,
    )
    with connection.cursor() as cursor:
        cursor.execute(RECOUNT_SQL, {"ids": [event_id for event_id, _ in free]})
    # What is still missing was locked, since the others exist by now.
    return len(created), list(found.values_list("id", flat=True))


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
    unfinished: int = 0

    @property
    def is_over(self) -> bool:
        """Whether all have ended; those that were purged since have, too."""
        return not self.unfinished

    @property
    def is_answered(self) -> bool:
        """Whether nothing is left whose answer is still to come soon."""
        return self.unfinished <= self.retrying + self.held


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


UNFINISHED = Count("id", filter=Q(status__in=(*WAITING, DeliveryStatus.SENDING)))


def _parts(redelivery: Redelivery) -> list[DeliveryQuerySet]:
    """Return its deliveries: those it queued last, and those that a later redelivery took over.

    Apart, since an index leads to each of them and none to both.
    """
    own = Delivery.objects.filter(redelivery=redelivery)
    takeovers = RedeliveryTakeover.objects.filter(redelivery_id=redelivery.id)
    taken_over = Delivery.objects.filter(id__in=takeovers.values("delivery_id"))
    return [own, taken_over.exclude(redelivery=redelivery)]


def progress(redelivery: Redelivery) -> Progress:
    """Return the present counts of a redelivery, whichever one sent its deliveries last."""
    counts: Counter[str] = Counter()
    for part in _parts(redelivery):
        counts.update(
            part.aggregate(
                succeeded=SUCCEEDED,
                failed=FAILED,
                retrying=RETRYING,
                held=HELD,
                held_for_now=HELD_FOR_NOW,
                unfinished=UNFINISHED,
            )
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

    def __add__(self, other: "WebhookOutcome") -> "WebhookOutcome":
        return WebhookOutcome(
            self.webhook_id,
            self.name,
            self.queued + other.queued,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.retrying + other.retrying,
            self.held + other.held,
            self.last_error or other.last_error,
        )


def outcomes(redelivery: Redelivery) -> list[WebhookOutcome]:
    """Return what became of a redelivery by webhook, the largest part first. Two statements."""
    found: dict[UUID, WebhookOutcome] = {}
    for part in _parts(redelivery):
        rows = part.values("webhook_id", "webhook__name").annotate(
            queued=Count("id"),
            succeeded=SUCCEEDED,
            failed=FAILED,
            retrying=RETRYING,
            held=HELD,
            last_error=Max(
                "error", filter=~Q(status__in=(DeliveryStatus.SUCCESS, DeliveryStatus.PENDING))
            ),
        )
        for row in rows:
            outcome = WebhookOutcome(
                row["webhook_id"],
                row["webhook__name"],
                row["queued"],
                row["succeeded"],
                row["failed"],
                row["retrying"],
                row["held"],
                row["last_error"] or "",
            )
            earlier = found.get(outcome.webhook_id)
            found[outcome.webhook_id] = outcome if earlier is None else earlier + outcome
    return sorted(found.values(), key=lambda outcome: (-outcome.queued, outcome.webhook_id))
