"""Who may have how many of the free places: fairness as arithmetic. Pure."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from uuid import UUID

from webhooks.dispatch.lanes import Key, Lane


def allot(lanes: Sequence[Lane], rooms: Mapping[UUID, int], limit: int) -> dict[Key, int]:
    """Deal `limit` rows out: to the owners first, then to each owner's lanes, within the room of
    their webhooks, which the two lanes of a webhook share.

    Twice what would be even, since most have less than their share due; the limit keeps it fair
    together with the order in which the lanes are served.
    """
    lanes_of = Counter(lane.owner_id for lane in lanes)
    share = 2 * limit / max(1, len(lanes_of))
    left = dict(rooms)
    sharing = Counter(lane.webhook_id for lane in lanes)
    wanted = {}
    for lane in lanes:
        room = math.ceil(left[lane.webhook_id] / sharing[lane.webhook_id])
        count = min(room, math.ceil(share / lanes_of[lane.owner_id]))
        left[lane.webhook_id] -= count
        sharing[lane.webhook_id] -= 1
        wanted[lane.key] = count
    return wanted


def in_turn(lanes: Sequence[Lane]) -> list[Lane]:
    """Return the lanes as they are served: one of each owner, then another of each, and so on.

    Chance decides who comes first, so that nobody is always the one whom the limit cuts off.
    """
    by_owner: defaultdict[UUID, list[Lane]] = defaultdict(list)
    for lane in random.sample(lanes, len(lanes)):
        by_owner[lane.owner_id].append(lane)
    turns = zip_longest(*by_owner.values())
    return [lane for turn in turns for lane in turn if lane is not None]
