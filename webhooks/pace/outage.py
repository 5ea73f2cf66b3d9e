"""Tell our own outage from theirs: when nobody can be reached, the fault is on our side.

Looks only at whether the network works, so an answer of any status counts as reached. During an
outage the dispatcher sends single probes, and what fails spends nothing of its retry budget.
"""

from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from webhooks.choices import FailureKind

NETWORK_FAILURES = frozenset(
    (FailureKind.DNS, FailureKind.CONNECT, FailureKind.TIMEOUT, FailureKind.RESET)
)
FEWEST_OWNERS = 4
"""That must fail without any answer in between; with fewer it is as likely theirs as ours."""
MEMORY_SECONDS = 60.0
PROBE_SECONDS = 2.0
"""Between two probes while it lasts."""


@dataclass(slots=True)
class _Seen:
    owner_id: UUID | None
    is_reached: bool
    at: float


@dataclass
class OutageGuard:
    """Counts by owner what was reached lately; an owner fails when most of its webhooks do.

    It is an outage of our own when most owners fail and nobody answers.
    """

    is_out: bool = False
    _seen: dict[UUID, _Seen] = field(default_factory=dict)
    _webhooks: Counter[UUID | None] = field(default_factory=Counter)
    _failing: Counter[UUID | None] = field(default_factory=Counter)
    _failing_owners: set[UUID | None] = field(default_factory=set)
    _failed_since_answer: set[UUID | None] = field(default_factory=set)

    def note(
        self, failure: FailureKind | None, webhook_id: UUID, owner_id: UUID | None, now: float
    ) -> bool:
        """Take note of how an attempt ended; returns whether the fault is our own."""
        if failure == FailureKind.BLOCKED_ADDRESS:
            # Nothing was sent: this says nothing about the network.
            return False
        if failure not in NETWORK_FAILURES:
            self.reached(webhook_id, owner_id, now)
            return False
        self.not_reached(webhook_id, owner_id, now)
        return self.is_out

    def reached(self, webhook_id: UUID, owner_id: UUID | None, now: float) -> None:
        """An answer came, whatever it said. Any answer ends an outage."""
        self._failed_since_answer.clear()
        if self.is_out:
            self._forget_all()
        seen = self._seen.get(webhook_id)
        if seen is not None and seen.is_reached:
            seen.at = now
        else:
            self._remember(webhook_id, _Seen(owner_id, True, now))

    def not_reached(self, webhook_id: UUID, owner_id: UUID | None, now: float) -> None:
        """The network failed."""
        self._failed_since_answer.add(owner_id)
        seen = self._seen.get(webhook_id)
        if seen is not None and not seen.is_reached:
            seen.at = now
        else:
            self._remember(webhook_id, _Seen(owner_id, False, now))
        self._judge()

    def rank(self, webhook_id: UUID) -> int:
        """Return a webhook's place among those that a probe may go to, the most promising being 0: it
        was reached lately, nothing is known of it, or it failed. Any thread may call."""
        seen = self._seen.get(webhook_id)
        if seen is None:
            return 1
        return 0 if seen.is_reached else 2

    def forget_old(self, now: float) -> None:
        """Drop what was not heard of for a while."""
        old = [k for k, seen in self._seen.items() if now - seen.at > MEMORY_SECONDS]
        for webhook_id in old:
            self._forget(webhook_id)
        if old:
            self._judge()

    def _judge(self) -> None:
        self.is_out = (
            len(self._failed_since_answer) >= FEWEST_OWNERS
            and len(self._failing_owners) >= FEWEST_OWNERS
            and len(self._failing_owners) * 2 > len(self._webhooks)
        )

    def _remember(self, webhook_id: UUID, seen: _Seen) -> None:
        self._forget(webhook_id)
        self._seen[webhook_id] = seen
        self._webhooks[seen.owner_id] += 1
        self._failing[seen.owner_id] += not seen.is_reached
        self._count_owner(seen.owner_id)

    def _forget(self, webhook_id: UUID) -> None:
        seen = self._seen.pop(webhook_id, None)
        if seen is not None:
            self._webhooks[seen.owner_id] -= 1
            self._failing[seen.owner_id] -= not seen.is_reached
            if not self._webhooks[seen.owner_id]:
                del self._webhooks[seen.owner_id], self._failing[seen.owner_id]
            self._count_owner(seen.owner_id)

    def _count_owner(self, owner_id: UUID | None) -> None:
        if self._failing[owner_id] * 2 > self._webhooks[owner_id]:
            self._failing_owners.add(owner_id)
        else:
            self._failing_owners.discard(owner_id)

    def _forget_all(self) -> None:
        self.is_out = False
        self._seen.clear()
        self._webhooks.clear()
        self._failing.clear()
        self._failing_owners.clear()
