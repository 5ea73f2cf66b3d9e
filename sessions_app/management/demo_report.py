"""The webhooks of the demo, and the report on their deliveries."""

import statistics
from dataclasses import dataclass, field

import standardwebhooks
from django.db.models import Count, Q, Sum

from webhooks.models import Delivery, Webhook
from webhooks.workbench.receiver import HttpReceiver, Received


@dataclass
class Target:
    """A webhook of the demo, its receiver (None if the receiver is down) and its requests."""

    label: str
    webhook: Webhook
    receiver: HttpReceiver | None
    bad_signatures: int = 0
    verified: int = 0
    first_received_at: dict[str, float] = field(default_factory=dict)

    def read(self, received: list[Received]) -> None:
        """Verify each request with the Standard Webhooks library, an independent implementation."""
        library = standardwebhooks.Webhook(self.webhook.secret)
        for request in received:
            self.first_received_at.setdefault(request.event_id, request.received_at)
            try:
                library.verify(request.body, request.headers)
            except standardwebhooks.WebhookVerificationError:
                self.bad_signatures += 1
            else:
                self.verified += 1
            if not request.hex_ok:
                self.bad_signatures += 1


def report(targets: list[Target], seconds: float) -> tuple[str, bool]:
    """Return a table of the targets, and whether every delivery to a running receiver is good."""
    lines = [
        f"{'webhook':<14}{'events':>8}{'delivered':>11}{'retried':>9}{'failed':>8}"
        f"{'waiting':>9}{'requests':>10}{'verified':>10}{'p50':>10}{'p95':>10}"
    ]
    is_good = True
    for target in targets:
        if target.receiver is not None:
            target.read(target.receiver.requests)
        row = target.webhook.deliveries.aggregate(
            events=Count("id"),
            delivered=Count("id", filter=Q(status="SUCCESS")),
            retried=Count("id", filter=Q(attempt_count__gt=1)),
            failed=Count("id", filter=Q(status="FAILED")),
            waiting=Count("id", filter=Q(finished_at=None)),
        )
        attempts = target.webhook.deliveries.aggregate(sum=Sum("attempt_count"))["sum"] or 0
        requests = target.verified if target.receiver else 0
        delivered = row["events"] if target.receiver else 0
        is_good &= row["events"] > 0 and row["delivered"] == delivered
        is_good &= row["delivered"] + row["failed"] + row["waiting"] == row["events"]
        is_good &= not target.bad_signatures
        is_good &= target.receiver is None or requests >= attempts
        lines.append(
            f"{target.label:<14}{row['events']:>8}{row['delivered']:>11}{row['retried']:>9}"
            f"{row['failed']:>8}{row['waiting']:>9}{attempts:>10}{requests:>10}"
            + _percentiles(target)
        )
    received = sum(target.verified + target.bad_signatures for target in targets)
    verified = sum(target.verified for target in targets)
    lines.append(
        f"\n{verified} of {received} requests verified with the standardwebhooks library. "
        f"p50 and p95 are milliseconds from save to first receipt. {seconds:.1f} s in all.\n"
        "The breaker of the webhook that is down holds its deliveries back until its receiver "
        "responds."
    )
    return "\n".join(lines), is_good


def count_deliveries(targets: list[Target]) -> dict[str, int]:
    return Delivery.objects.filter(webhook__in=[target.webhook for target in targets]).aggregate(
        all=Count("id"),
        success=Count("id", filter=Q(status="SUCCESS")),
        failed=Count("id", filter=Q(status__in=["FAILED", "CANCELLED"])),
        retrying=Count("id", filter=Q(status="RETRYING")),
    )


def _percentiles(target: Target) -> str:
    saved_at = {
        delivery.event.public_id: delivery.event.created_at.timestamp()
        for delivery in target.webhook.deliveries.select_related("event")
    }
    waits = sorted(
        1000 * (received_at - saved_at[event_id])
        for event_id, received_at in target.first_received_at.items()
    )
    if len(waits) < 2:
        return f"{'-':>10}{'-':>10}"
    cuts = statistics.quantiles(waits, n=20, method="inclusive")
    return f"{cuts[9]:>10.1f}{cuts[18]:>10.1f}"
