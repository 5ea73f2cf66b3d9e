"""Suspects: the deliveries that were in flight when their worker died, and the claims of them.

One of these deliveries may have ended the worker, and would end the next one. Group tests find it
(invariant 8): suspects go out in separate processes, at most GROUP_SIZES[level] in each. When such a
process dies, its deliveries go one level up, into smaller groups. At the level ALONE a process sends
one delivery at a time, and only deaths there count against a delivery. So a culprit among five
hundred is alone after three deaths, the others wait for no other receiver, and none is punished.

`suspect_level` is the present level of an unfinished suspect, `crash_count` how often it crashed alone.
"""

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import NamedTuple
from uuid import UUID

from webhooks.choices import BreakerState
from webhooks.dispatch import guard
from webhooks.dispatch.claim import Claim, Rank, most_held
from webhooks.dispatch.claims import POLL_SECONDS
from webhooks.dispatch.desk import Errand
from webhooks.dispatch.discovery import clock_offset
from webhooks.dispatch.flight import Flight
from webhooks.dispatch.guard import Guard
from webhooks.dispatch.take import (
    MARK_DUE,
    MAX_CLAIM_BYTES,
    ClaimedDelivery,
    keep_light,
    marked_columns,
)
from webhooks.pace.breaker import LONGEST_INTERVAL_SECONDS
from webhooks.pace.outage import PROBE_SECONDS
from webhooks.postgres.objects import head_of
from webhooks.postgres.sql import limited_transaction, run

GROUP_SIZES = (512, 64, 8, 1)
"""Most suspects that one process may hold, by level."""
LEVELS = range(len(GROUP_SIZES))
ALONE = LEVELS[-1]
GROUPS = 8
"""How many groups a level is divided into: the sizes of two levels differ by this factor."""


def level_for(count: int) -> int:
    """Return the first level for `count` suspects: the smallest size that makes at most GROUPS groups."""
    fitting = [level for level in LEVELS if count <= GROUPS * GROUP_SIZES[level]]
    return max(fitting, default=0)


COUNT_ALL_SQL = """
SELECT count(*) FROM webhooks_delivery WHERE is_suspect AND finished_at IS NULL
"""


def count_all() -> int:
    """Return the number of unfinished suspects."""
    return int(run(COUNT_ALL_SQL, {}).fetchone()[0])


# The suspects that may go now, with their webhooks; of an ordered webhook only the first, or the first of each object. The first
# part reads all suspects, which the planner would not do by itself for a table that has grown since
# its statistics were gathered.
DUE_SQL = f"""
suspect AS MATERIALIZED (
    SELECT id, webhook_id, owner_id, order_key, object_key, next_attempt_at, suspect_level, claimed_by
      FROM webhooks_delivery
     WHERE is_suspect AND finished_at IS NULL
), due AS MATERIALIZED (
    SELECT s.id, s.webhook_id, s.owner_id, s.next_attempt_at, s.suspect_level,
           w.rate_limit, w.rate_ready_at, w.breaker_state, w.breaker_changed_at
      FROM suspect s
      JOIN webhooks_webhook w ON w.id = s.webhook_id
     WHERE s.claimed_by IS NULL AND s.next_attempt_at <= statement_timestamp()
       AND w.active AND w.deleted_at IS NULL AND NOT EXISTS (SELECT FROM webhooks_pause)
       AND coalesce(w.held_until <= clock_timestamp(), true)
       AND (w.breaker_state = 'closed' OR NOT w.breaker_probe_at BETWEEN clock_timestamp()
                AND clock_timestamp() + make_interval(secs => {LONGEST_INTERVAL_SECONDS}))
       AND (w.delivery_order = 'none' OR s.order_key IS NULL OR s.id = CASE
            WHEN w.delivery_order = 'object' AND s.object_key IS NOT NULL
            THEN (SELECT id FROM ({head_of("s")}) head)
            ELSE (
            SELECT o.id FROM webhooks_delivery o
             WHERE o.webhook_id = s.webhook_id AND o.finished_at IS NULL
               AND o.order_key IS NOT NULL
             ORDER BY o.epoch, o.order_key, o.id
             LIMIT 1) END)
)"""  # noqa: S608 (constants only)

# Counts only as many suspects as breakers and rate limits (webhooks/pace/rate.py) let through now.
COUNT_SQL = f"""
WITH {DUE_SQL}, allowed AS (
    SELECT suspect_level,
           least(count(*), CASE WHEN breaker_state <> 'closed' THEN 1 END, CASE
               WHEN rate_ready_at > statement_timestamp()
                    + make_interval(secs => greatest(1, 1 / rate_limit) + 0.001) THEN 1
               WHEN rate_limit IS NOT NULL THEN floor(1e-6 + rate_limit * extract(epoch FROM
                   make_interval(secs => greatest(1, 1 / rate_limit)) + statement_timestamp()
                   - greatest(rate_ready_at, statement_timestamp()))) END) AS count
      FROM due
     GROUP BY suspect_level, webhook_id, breaker_state, rate_limit, rate_ready_at
)
SELECT suspect_level, sum(due)::int, sum(in_flight)::int
  FROM (SELECT suspect_level, count AS due, 0 AS in_flight FROM allowed WHERE count > 0
        UNION ALL
        SELECT suspect_level, 0, 1 FROM suspect WHERE claimed_by IS NOT NULL) AS counted
 GROUP BY suspect_level
"""  # noqa: S608 (constants only)


class Count(NamedTuple):
    """The numbers of suspects of one level."""

    due: int
    """How many may be sent now."""
    in_flight: int


def count_by_level() -> dict[int, Count]:
    """Return how many suspects may go and how many are in flight, by level, without empty levels."""
    return {level: Count(due, in_flight) for level, due, in_flight in run(COUNT_SQL, {})}


def are_any_due() -> bool:
    """Say whether any suspect may go now."""
    return any(count.due for count in count_by_level().values())


VISIT_SUSPECTS_SQL = f"""
WITH {DUE_SQL}
SELECT extract(epoch FROM clock_timestamp())::float8, waiting.*
  FROM (SELECT) AS always_one_row
  LEFT JOIN (
    SELECT owner_id, webhook_id, rate_limit, breaker_state,
           extract(epoch FROM breaker_changed_at)::float8, count(*)
      FROM due
     WHERE suspect_level = %(level)s
     GROUP BY owner_id, webhook_id, rate_limit, breaker_state, breaker_changed_at
  ) AS waiting ON true
"""  # noqa: S608 (constants only)

# It takes a webhook's suspects in random order, so that processes that claim at the same time do not
# all reach for the same rows.
CLAIM_SUSPECTS_SQL = f"""
WITH {DUE_SQL.replace("due AS", "sendable AS")}, picked AS MATERIALIZED (
    SELECT id, webhook_id, row_number() OVER (PARTITION BY webhook_id ORDER BY random()) AS number
      FROM sendable
     WHERE suspect_level = %(level)s
), due AS MATERIALIZED (
    SELECT d.id
      FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(
            SELECT id
              FROM picked
              JOIN unnest(%(webhooks)s::uuid[], %(counts)s::int[]) AS wanted (webhook_id, count)
             USING (webhook_id)
             WHERE number <= count))
       AND d.is_suspect AND d.finished_at IS NULL AND d.claimed_by IS NULL
       AND d.suspect_level = %(level)s
       FOR UPDATE SKIP LOCKED
), {MARK_DUE}
SELECT {marked_columns()}
  FROM claimed c JOIN webhooks_event e ON e.id = c.event_id
"""  # noqa: S608 (constants only)


class Waiting(NamedTuple):
    """A webhook with suspects that may go."""

    owner_id: UUID
    webhook_id: UUID
    rate_limit: float | None
    breaker_state: str
    breaker_changed_at: float | None
    due: int
    """How many suspects."""

    @property
    def is_guarded(self) -> bool:
        """Whether a claim must decide under a lock of the webhook's row."""
        return self.rate_limit is not None or self.breaker_state != BreakerState.CLOSED


@dataclass(slots=True)
class SuspectClaimOrder:
    """The order for one claim of a process that sends suspects."""

    worker_id: UUID
    level: int
    limit: int
    """The caller must keep at most GROUP_SIZES[level] in one process."""
    room_of: Callable[[UUID, int], int]


def claim_suspects(order: SuspectClaimOrder) -> Claim:
    """Mark up to `order.limit` suspects of a level as SENDING by this worker and return them.

    They follow the same rules as other deliveries: owners take turns, and rate limits, breakers,
    windows and the order of their webhooks hold.
    """
    claim, waiting = _visit(order.level)
    rooms = {
        webhook.webhook_id: order.room_of(
            webhook.webhook_id,
            most_held(webhook.breaker_state, webhook.breaker_changed_at, claim.database_time),
        )
        for webhook in waiting
    }
    most = {w.webhook_id: min(rooms[w.webhook_id], w.due) for w in waiting}
    wanted = deal(waiting, most, order.limit)
    if wanted:
        webhooks = [webhook for webhook in waiting if webhook.webhook_id in wanted]
        _take(claim, order, webhooks, wanted)
    return claim


def deal(webhooks: Sequence[Waiting], most: Mapping[UUID, int], limit: int) -> Counter[UUID]:
    """Deal `limit` rows out one by one, to each owner in turn and to the owner's webhooks in turn.

    No webhook gets more than `most`. The order is random, because several processes claim at once.
    """
    by_owner: defaultdict[UUID, list[UUID]] = defaultdict(list)
    for webhook in random.sample(webhooks, len(webhooks)):
        by_owner[webhook.owner_id].append(webhook.webhook_id)
    of_owners = [islice(_in_turn({k: most[k] for k in ids}), limit) for ids in by_owner.values()]
    in_turn = chain.from_iterable(zip_longest(*of_owners))
    return Counter(islice((webhook_id for webhook_id in in_turn if webhook_id), limit))


def _in_turn(counts: Mapping[UUID, int]) -> Iterator[UUID]:
    """Yield each key as often as its count, in rounds."""
    for turn in range(max(counts.values())):
        yield from (key for key, count in counts.items() if turn < count)


def _visit(level: int) -> tuple[Claim, list[Waiting]]:
    """Return an empty claim, and the webhooks with suspects that may go."""
    asked_at = time.monotonic()
    rows = run(VISIT_SUSPECTS_SQL, {"level": level}).fetchall()
    claim = Claim(rows[0][0], clock_offset(rows[0][0], asked_at))
    return claim, [Waiting._make(row[1:]) for row in rows if row[2] is not None]


def _take(
    claim: Claim, order: SuspectClaimOrder, webhooks: Sequence[Waiting], wanted: Mapping[UUID, int]
) -> None:
    now = claim.database_time
    guarded = [webhook.webhook_id for webhook in webhooks if webhook.is_guarded]
    with limited_transaction():
        guards = guard.lock_guards(guarded) if guarded else {}
        counts = {
            webhook.webhook_id: _count_for(webhook, wanted[webhook.webhook_id], guards, now)
            for webhook in webhooks
        }
        parameters = {
            "level": order.level,
            "webhooks": list(counts),
            "counts": list(counts.values()),
            "worker": order.worker_id,
            "bytes": MAX_CLAIM_BYTES,
        }
        rows = map(ClaimedDelivery._make, run(CLAIM_SUSPECTS_SQL, parameters))
        claim.taken.deliveries = keep_light(claim.taken, order.worker_id, list(rows))
        taken = Counter(d.webhook_id for d in claim.taken.deliveries if d.webhook_id in guards)
        if taken:
            guard.spend({webhook_id: guards[webhook_id] for webhook_id in taken}, taken, now)


def _count_for(webhook: Waiting, wanted: int, guards: Mapping[UUID, Guard], now: float) -> int:
    if not webhook.is_guarded:
        return wanted
    locked = guards.get(webhook.webhook_id)
    return 0 if locked is None else min(wanted, guard.allowance(locked, now).requests)


class SuspectClaims:
    """The desk for claims of a process that sends suspects of one level; see claims.Claims."""

    def __init__(
        self,
        submit: Callable[[SuspectClaimOrder], Future[Claim]],
        worker_id: UUID,
        flight: Flight,
        level: int,
    ) -> None:
        self._submit = submit
        self._worker_id = worker_id
        self._flight = flight
        self._level = level
        self._errand: Errand[Claim] = Errand("claim of suspects")
        self._due_at = 0.0
        self._claimed_at = -math.inf
        self._is_empty = False
        self.has_backlog = False
        """Always false: a worker that sends suspects never wakes others for help."""

    def hint(self) -> None:
        """Note that a suspect may be due."""
        self._due_at = 0.0

    def freed(self, webhook_id: UUID, *, is_ordered: bool = False) -> None:
        """Claim again: the worker holds one row less, so another of its webhook may go."""
        self._due_at = 0.0

    def resumed(self, webhook_ids: Iterable[UUID]) -> None:
        """Claim again: these webhooks may get requests again."""
        if webhook_ids:
            self._due_at = 0.0

    def look_everywhere(self) -> None:
        """Claim once more, to find out whether any suspect is left."""
        self._is_empty = False
        self._due_at = 0.0

    @property
    def is_under_way(self) -> bool:
        return self._errand.is_under_way

    def is_idle(self, now: float) -> bool:
        """Say whether the last claim found nothing, and nothing has changed since."""
        return self._is_empty and not self._errand.is_under_way and self._due_at > now

    def room(self, unwritten: int) -> int:
        """Return how many more suspects may be claimed; the `unwritten` results count as held,
        because a crash would make them suspects again."""
        held = len(self._flight.ids) + unwritten
        return min(self._flight.room, GROUP_SIZES[self._level] - held)

    def due_at(self, now: float, *, is_out: bool) -> float:
        """Return when to order the next claim, by the monotonic clock."""
        if self._errand.is_under_way:
            return math.inf
        due_at = max(self._due_at, self._errand.not_before)
        return max(due_at, self._claimed_at + PROBE_SECONDS) if is_out else due_at

    def order(self, now: float, *, limit: int, rank: Rank | None = None) -> None:
        """Start a claim of up to `limit` suspects on the database thread, whatever their rank."""
        self._claimed_at = now
        self._due_at = now + POLL_SECONDS
        order = SuspectClaimOrder(self._worker_id, self._level, limit, self._flight.room_of)
        self._errand.begin(self._submit(order))

    def collect(self) -> Claim | None:
        """Return the ordered claim once it has succeeded; None before that and after a failure."""
        ended = self._errand.collect()
        if ended is None or ended.value is None:
            return None
        self._is_empty = ended.value.taken.count == 0
        return ended.value

    def settle_lanes(self, claim: Claim) -> None:
        """Do nothing: suspects have no lanes, because each claim visits all that may go."""
