"""The progress of a redelivery and the results of its deliveries."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db.models import Count, Exists, Max, Q
from django.db.models.functions import Now

from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.models import Delivery, Pause, Redelivery, RedeliveryTakeover
from webhooks.models.delivery import WAITING, DeliveryQuerySet
from webhooks.models.owners import ACTIVE, has_active_column

PATIENCE = timedelta(seconds=30)
"""A webhook with a shorter Retry-After counts as awaited, with a longer one as held."""
IS_STOPPED = Q(status=DeliveryStatus.PENDING) & (
    Q(Exists(Pause.objects.all()))
    | (~Q(webhook__breaker_state=BreakerState.CLOSED) & Q(webhook__breaker_probe_at__gt=Now()))
    | Q(webhook__held_until__gt=Now() + PATIENCE)
)
SUCCEEDED = Count("id", filter=Q(status=DeliveryStatus.SUCCESS))
FAILED = Count("id", filter=Q(status__in=(DeliveryStatus.FAILED, DeliveryStatus.CANCELLED)))
UNFINISHED = Count("id", filter=Q(status__in=(*WAITING, DeliveryStatus.SENDING)))


def _held_counts() -> dict[str, Count]:
    """Return the counts that depend on whether webhooks send, which the owner model has a say in."""
    sends = Q(webhook__active=True, webhook__deleted_at=None)
    if has_active_column():
        sends &= ~Q(**{f"webhook__owner__{ACTIVE}": False})
    is_off = Q(status__in=WAITING) & ~sends
    return {
        "retrying": Count("id", filter=Q(status=DeliveryStatus.RETRYING) & sends),
        "held": Count("id", filter=is_off | IS_STOPPED),
        "held_for_now": Count("id", filter=IS_STOPPED & sends),
    }


@dataclass(frozen=True)
class Progress:
    """The counts of a redelivery's deliveries."""

    is_running: bool
    """Whether more deliveries are being queued."""
    matched: int
    queued: int
    succeeded: int
    failed: int
    retrying: int = 0
    """Deliveries that failed again and have another attempt scheduled."""
    held: int = 0
    """Deliveries that wait for a webhook that is disabled, has an open breaker or sent Retry-After,
    for an owner who is not active, or for the end of a pause."""
    held_for_now: int = 0
    """Held deliveries except those of webhooks that are off; they continue without an operator's
    help."""
    unfinished: int = 0

    @property
    def is_over(self) -> bool:
        """Whether all deliveries are finished; purged ones count as finished."""
        return not self.unfinished

    @property
    def is_complete(self) -> bool:
        """Whether it is over, and nothing more is being queued."""
        return not self.is_running and self.is_over

    @property
    def is_answered(self) -> bool:
        """Whether every delivery is finished, has failed again or is held."""
        return self.unfinished <= self.retrying + self.held

    @property
    def is_settled(self) -> bool:
        """Whether no delivery makes progress without an operator, so that nobody need watch."""
        return not self.is_running and self.is_answered and not self.held_for_now

    @property
    def whole(self) -> int:
        """The number of deliveries that counts as all of them; at least 1."""
        return max(self.matched if self.is_running else self.queued, 1)

    @property
    def percent(self) -> int:
        """The finished share; 100 only if it is complete."""
        done = 100 * (self.succeeded + self.failed) // self.whole
        return 100 if self.is_complete else min(done, 99)


def _parts(redelivery: Redelivery) -> list[DeliveryQuerySet]:
    """Return its deliveries in two querysets: its own, and those a later redelivery has taken over.

    Each has an index; a single query for both would have none.
    """
    own = Delivery.objects.filter(redelivery=redelivery)
    takeovers = RedeliveryTakeover.objects.filter(redelivery_id=redelivery.id)
    taken_over = Delivery.objects.filter(id__in=takeovers.values("delivery_id"))
    return [own, taken_over.exclude(redelivery=redelivery)]


def progress(redelivery: Redelivery) -> Progress:
    """Return the current counts of a redelivery's deliveries.

    Deliveries that a later redelivery has taken over count as well. Two statements.
    """
    counts: Counter[str] = Counter()
    for part in _parts(redelivery):
        counts.update(
            part.aggregate(
                succeeded=SUCCEEDED,
                failed=FAILED,
                unfinished=UNFINISHED,
                **_held_counts(),
            )
        )
    is_running = redelivery.status == Redelivery.Status.RUNNING
    return Progress(is_running, redelivery.matched_count, redelivery.queued_count, **counts)


@dataclass(frozen=True)
class WebhookOutcome:
    """The counts of a redelivery's deliveries to one webhook."""

    webhook_id: UUID
    name: str
    queued: int
    succeeded: int
    failed: int
    retrying: int
    held: int
    last_error: str
    """An error of a failed or retrying delivery; empty if none."""

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
    """Return the counts of a redelivery per webhook, the largest first. Two statements."""
    by_webhook: dict[UUID, WebhookOutcome] = {}
    held = _held_counts()
    for part in _parts(redelivery):
        rows = part.values("webhook_id", "webhook__name").annotate(
            queued=Count("id"),
            succeeded=SUCCEEDED,
            failed=FAILED,
            retrying=held["retrying"],
            held=held["held"],
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
            earlier = by_webhook.get(outcome.webhook_id)
            by_webhook[outcome.webhook_id] = outcome if earlier is None else earlier + outcome
    return sorted(by_webhook.values(), key=lambda outcome: (-outcome.queued, outcome.webhook_id))
