"""Fairness as arithmetic: how many of the free places each owner's webhooks get. Pure."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from uuid import UUID

from webhooks.dispatch.lanes import Key, Lane


def allot(lanes: Sequence[Lane], rooms: Mapping[UUID, int], limit: int) -> dict[Key, int]:
    """Deal `limit` rows out to the owners, then to each owner's lanes, within the webhooks' room.

    The two lanes of a webhook share its room. Each owner may take twice an even share, because most
    owners have fewer rows due. The limit and the random order keep the result fair.
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
    """Return the lanes in the order to serve them: one of each owner, then another of each, and so on.

    The order of the owners is random, so that the limit does not always cut off the same one.
    """
    by_owner: defaultdict[UUID, list[Lane]] = defaultdict(list)
    for lane in random.sample(lanes, len(lanes)):
        by_owner[lane.owner_id].append(lane)
    turns = zip_longest(*by_owner.values())
    return [lane for turn in turns for lane in turn if lane is not None]
