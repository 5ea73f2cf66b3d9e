"""Help for product developers' tests: assert which events an action stores, without a network."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Max

from webhooks.models import Event
from webhooks.tracking import journal


@dataclass
class CapturedEvents:
    """The events that the block stored, in order; available when the block has ended."""

    events: list[Event] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def types_and_data(self) -> list[tuple[str, dict[str, Any]]]:
        """The type and `data` of every captured event."""
        return [(event.type, json.loads(bytes(event.payload))["data"]) for event in self.events]

    def data_of(self, event_type: str) -> list[dict[str, Any]]:
        """Return the `data` of every captured event of one type."""
        return [data for type_, data in self.types_and_data if type_ == event_type]


@contextmanager
def captured_events() -> Iterator[CapturedEvents]:
    """Collect the events that the block stores.

    >>> with captured_events() as captured:
    ...     project.save()
    >>> assert captured.types == ["project.updated"]
    """
    captured = CapturedEvents()
    # A test that never commits needs this: otherwise writes in the block would rewrite events that
    # the test stored before the block.
    journal.seal()
    last = Event.objects.aggregate(last=Max("sequence"))["last"] or 0
    try:
        yield captured
    finally:
        journal.seal()
        captured.events = list(Event.objects.filter(sequence__gt=last).order_by("sequence"))
