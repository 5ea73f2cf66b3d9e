"""Operators do what they do while everything runs: a redelivery, a purge."""

import time
from collections import deque
from datetime import timedelta

from django.utils import timezone

from tests.chaos.faults import Fault, Kind, Stage
from tests.chaos.kinds.held import public
from webhooks.ids import DELIVERY_PREFIX
from webhooks.models import Attempt, Delivery
from webhooks.repair import redelivery, retention
from webhooks.repair.redelivery_scope import Scope

REDELIVERED = 30
KEPT = timedelta(seconds=90)
"""Longer than the follower of the feed may be behind, and than a redelivery takes."""


def redeliver(stage: Stage, fault: Fault) -> None:
    """The last ones that succeeded, at webhooks whose order that cannot disturb."""
    webhooks = [
        r.webhook.id for r in stage.world.recipients if not (r.order != "none" or r.deleted)
    ]
    succeeded = Delivery.objects.filter(status="SUCCESS", webhook__in=webhooks).order_by("-id")
    ids = list(succeeded.values_list("id", flat=True)[:REDELIVERED])
    # Known before it can be done: an error may hide a commit.
    fault.may_repeat, fault.repeats_until = public(ids), time.time() + 1
    redelivery.redeliver(Scope(delivery_ids=tuple(ids), statuses=("SUCCESS",)))
    fault.must_repeat = True


def purge(_: Stage, fault: Fault) -> None:
    """All that ended a while ago goes, and with it the records of its attempts."""
    before = timezone.now() - KEPT
    going = Attempt.objects.filter(
        delivery__finished_at__lt=before, response_code=None, failure_kind="timeout"
    )
    fault.timed_out = frozenset(
        (DELIVERY_PREFIX + delivery.hex, number)
        for delivery, number in going.values_list("delivery_id", "number")
    )
    deque(retention.purge(retention.Policy(before), share=1.0), maxlen=0)


KINDS = [Kind(2, redeliver), Kind(1, purge)]
