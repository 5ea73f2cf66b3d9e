"""Batches: the events of one webhook that go in one request. Pure.

Claimed rows are gathered until the webhook's limit of events, of bytes or of time is reached. A batch
takes one place in the webhook's window. Each of its rows keeps its own attempts and retries.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.take import ClaimedDelivery
from webhooks.wire.forms import BATCHED_FORMS, content_type_of, read_spec
from webhooks.wire.trace_context import first_of

Key = tuple[UUID, bytes]
"""A webhook, and the type of the content."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go in one request, in the order of their events."""

    rows: tuple[ClaimedDelivery, ...]

    @property
    def webhook_id(self) -> UUID:
        return self.rows[0].webhook_id

    @property
    def content_type(self) -> bytes:
        """That of all its rows."""
        return content_type_of(_form_of(self.rows[0]))


Sendable = ClaimedDelivery | Batch


def rows_of(item: Sendable) -> tuple[ClaimedDelivery, ...]:
    return item.rows if isinstance(item, Batch) else (item,)


def all_rows(items: Iterable[Sendable]) -> list[ClaimedDelivery]:
    return [row for item in items for row in rows_of(item)]


def trace_of(rows: Iterable[ClaimedDelivery]) -> str | None:
    """Return the traceparent that the request of these rows belongs to; None without any."""
    return first_of(row.traceparent for row in rows)


@dataclass(slots=True)
class Gathered:
    """What waits for the rest of its batch."""

    due_at: float
    """By the monotonic clock."""
    rows: list[ClaimedDelivery] = field(default_factory=list)
    bytes: int = 0

    def batch(self) -> Batch:
        return Batch(tuple(sorted(self.rows, key=lambda row: row.event_id)))


def goes_in_batch(delivery: ClaimedDelivery, endpoint: Endpoint) -> bool:
    """Say whether a row goes in a batch: its own form may be another than its webhook's is now."""
    if endpoint.batch_events <= 1:
        return False
    form = _form_of(delivery)
    return form is None or form in BATCHED_FORMS


def _form_of(delivery: ClaimedDelivery) -> str | None:
    """Return the form without its parameters; None is the standard one."""
    if delivery.form is None:
        return None
    form, _, spec, *_ = delivery.form
    return form if spec is None else read_spec(spec).form


class Gathering:
    """The rows of a worker that wait for the rest of their batches."""

    def __init__(self) -> None:
        self._gathered: dict[Key, Gathered] = {}

    @property
    def due_at(self) -> float:
        """When the next batch is complete, by the monotonic clock."""
        return min((one.due_at for one in self._gathered.values()), default=float("inf"))

    def add(self, delivery: ClaimedDelivery, endpoint: Endpoint, now: float) -> list[Batch]:
        """Add a row, and return what is complete with it or before it."""
        key = delivery.webhook_id, content_type_of(_form_of(delivery))
        complete = []
        gathered = self._gathered.get(key)
        size = len(delivery.payload)
        if gathered is not None and gathered.bytes + size > endpoint.batch_bytes:
            complete.append(self._gathered.pop(key).batch())
            gathered = None
        if gathered is None:
            due_at = now + endpoint.batch_milliseconds / 1000
            gathered = self._gathered[key] = Gathered(due_at)
        gathered.rows.append(delivery)
        gathered.bytes += size
        if len(gathered.rows) >= endpoint.batch_events or gathered.bytes >= endpoint.batch_bytes:
            complete.append(self._gathered.pop(key).batch())
        return complete

    def take_due(self, now: float) -> list[Batch]:
        """Return the batches whose time has come."""
        due = [key for key, one in self._gathered.items() if one.due_at <= now]
        return [self._gathered.pop(key).batch() for key in due]
