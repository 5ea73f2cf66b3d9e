"""Claim as a worker does that remembers nothing."""

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from webhooks.dispatch import claim, suspects
from webhooks.dispatch.claim import Claim, ClaimOrder
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.take import ClaimedDelivery, Taken, take_runs
from webhooks.ids import new_id

Room = Callable[[UUID, int], int]


class Claimed(NamedTuple):
    """What a claim took."""

    deliveries: list[ClaimedDelivery]
    claim: Claim


def claim_due(worker_id: UUID, *, limit: int, room_of: Room) -> Claimed:
    """Claim what became due in the last ten minutes."""
    order = ClaimOrder(worker_id, limit, [], room_of, back_seconds=600.0)
    return _all_of(claim.claim_due(order, Endpoints()))


def claim_suspects(worker_id: UUID, *, level: int, limit: int, room_of: Room) -> Claimed:
    return _all_of(
        suspects.claim_suspects(suspects.SuspectClaimOrder(worker_id, level, limit, room_of))
    )


def _all_of(made: Claim) -> Claimed:
    runs = [delivery for rows in made.taken.runs.values() for delivery in rows]
    return Claimed([*made.taken.deliveries, *made.taken.of_objects, *runs], made)


def head_may_go(webhook_id: UUID) -> bool:
    """Say whether no older transaction holds the first row of an ordered webhook back.

    Changes nothing: a worker that is not registered claims nothing.
    """
    taken = Taken()
    take_runs(taken, new_id(), [webhook_id], [1])
    return webhook_id not in taken.waits_for_others
