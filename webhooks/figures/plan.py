"""When a webhook's failed deliveries are tried again, as people want to know it beforehand."""

from dataclasses import dataclass
from itertools import count

from webhooks.models import Delivery, Webhook
from webhooks.models.delivery import WAITING
from webhooks.pace.retry import Policy, delay_before_retry


@dataclass(frozen=True, slots=True)
class Retry:
    """One retry of a failed delivery; the delays vary by ten per cent in fact."""

    number: int
    delay_seconds: float
    """Since the attempt before it."""
    after_seconds: float
    """Since the first attempt, without the time that the attempts themselves take."""


def retry_plan(webhook: Webhook) -> list[Retry]:
    """Return all retries that a delivery of this webhook gets."""
    policy = Policy(webhook.max_retries, webhook.retry_delay_seconds, webhook.retry_schedule)
    retries: list[Retry] = []
    after = 0.0
    for number in count(1):
        delay = delay_before_retry(policy, number, spread=0.0)
        if delay is None:
            break
        after += delay
        retries.append(Retry(number, delay, after))
    return retries


def attempts_left(delivery: Delivery, webhook: Webhook) -> int:
    """Return how many more attempts a waiting delivery gets in this round; 0 where it has ended."""
    if delivery.status not in WAITING:
        return 0
    made = delivery.attempt_count - delivery.attempts_before_round
    return max(0, len(retry_plan(webhook)) + 1 - made)
