"""The webhooks of a chaos run as it registered them, beside whatever the product stores of them."""

from dataclasses import dataclass, field

from webhooks.models import Webhook

RETRIES = [1, 1, 1, *[2] * 17]


@dataclass
class Span:
    """From before a change was made until after it was made; Unix seconds."""

    began_at: float
    ended_at: float


@dataclass
class Secret:
    """A signing secret; times are Unix seconds, infinity where that is not known."""

    text: str
    newest_from: float = float("inf")
    """When it was certain to be the newest."""
    dead_from: float = float("inf")
    """When it was certain to sign no more."""


@dataclass
class Recipient:
    """A webhook."""

    path: str
    """At the receiver; tells one webhook from another."""
    owner: str | None
    """None for the platform's, which hears of everybody."""
    patterns: list[str]
    order: str
    created: Span
    secrets: list[Secret]
    """Each that it ever had, the newest last."""
    webhook: Webhook
    off: list[Span] = field(default_factory=list)
    """When it was switched off and on again, by turns."""
    deleted: Span | None = None

    @property
    def ordered(self) -> bool:
        """Whether all that it gets goes in one order."""
        return self.order == "all"

    def wants(self, event_type: str, owner: str) -> bool:
        """Say whether it subscribes to such events of this owner."""
        is_its_own = self.owner is None or self.owner == owner
        return is_its_own and any(
            pattern in ("*", event_type)
            or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
            for pattern in self.patterns
        )
