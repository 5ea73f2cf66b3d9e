"""The cap of requests per second to one host, for all webhooks together that are not verified.

Whoever does not prove that a receiver is his must not make us flood it, with however many webhooks
and accounts. A row for each such host keeps what is spent, as a webhook's row does for its rate limit:
a claim locks it, so that all workers together keep the cap, whether Valkey is there or not.
"""

import math
from collections import Counter
from collections.abc import Mapping
from uuid import UUID

from webhooks.dispatch.guard import Allowance
from webhooks.models.endpoint_proof import host_cap, host_of
from webhooks.pace import rate
from webhooks.postgres.sql import run

# A row that another transaction is inserting at this moment is waited for: a claim takes milliseconds.
ADD_SQL = """
INSERT INTO webhooks_unverifiedhost (host, ready_at)
SELECT host, to_timestamp(%(now)s) FROM unnest(%(hosts)s::text[]) AS wanted (host)
 WHERE NOT EXISTS (SELECT FROM webhooks_unverifiedhost known WHERE known.host = wanted.host)
 ORDER BY host
    ON CONFLICT DO NOTHING
"""

LOCK_SQL = """
SELECT host, extract(epoch FROM ready_at)::float8 FROM webhooks_unverifiedhost
 WHERE host = ANY(%(hosts)s)
 ORDER BY host
   FOR UPDATE SKIP LOCKED
"""

SPEND_SQL = """
UPDATE webhooks_unverifiedhost h SET ready_at = to_timestamp(s.ready_at)
  FROM unnest(%(hosts)s::text[], %(ready_at)s::float8[]) AS s (host, ready_at)
 WHERE h.host = s.host
"""


class HostCaps:
    """What the hosts of a claim's unverified webhooks may get; locked until the transaction ends."""

    def __init__(self, urls: Mapping[UUID, str], now: float) -> None:
        """`urls` are those of the unverified webhooks; `now` is in Unix seconds."""
        self._cap = host_cap() or math.inf
        self._now = now
        self._hosts = {webhook_id: host_of(url) for webhook_id, url in urls.items()}
        self._turns = Counter(self._hosts.values())
        """Webhooks of each host that have not asked yet."""
        self._refused: Counter[str] = Counter()
        self._ready: dict[str, float] = {}
        if self._hosts:
            parameters = {"hosts": sorted(self._turns), "now": now}
            run(ADD_SQL, parameters)
            self._ready = dict(run(LOCK_SQL, parameters).fetchall())
        self._left = {}
        self._next_at = {}
        """When one more request may go than are left."""
        for host, ready_at in self._ready.items():
            left = rate.allowance(self._cap, ready_at, now).requests
            spent = rate.spend(self._cap, ready_at, now, left)
            self._left[host] = left
            self._next_at[host] = rate.allowance(self._cap, spent, now).next_at

    def limit(self, webhook_id: UUID, allowed: Allowance) -> Allowance | None:
        """Return what is left of a webhook's allowance; None if another worker has its host.

        The webhooks of a host share its allowance. Those that get less than they may come back one
        after the other, so that many of them cost claims little while they wait.
        """
        host = self._hosts.get(webhook_id)
        if host is None:
            return allowed
        if host not in self._left:
            return None
        share = math.ceil(self._left[host] / self._turns[host])
        self._turns[host] -= 1
        if allowed.requests <= share:
            self._left[host] -= allowed.requests
            return allowed
        self._left[host] -= share
        next_at = self._next_at[host] + self._refused[host] / self._cap
        self._refused[host] += 1
        return Allowance(share, next_at)

    def spend(self, taken: Mapping[UUID, int]) -> None:
        """Charge the requests that were taken to their hosts."""
        counts: Counter[str] = Counter()
        for webhook_id, count in taken.items():
            if webhook_id in self._hosts:
                counts[self._hosts[webhook_id]] += count
        if counts:
            ready = [rate.spend(self._cap, self._ready[h], self._now, n) for h, n in counts.items()]
            run(SPEND_SQL, {"hosts": list(counts), "ready_at": ready})
