"""What the log and this database say about cells: for `manage.py cells` and the doctor."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings

from cells.cellmap import CellMap, MapMissingError, read_map
from cells.consumer import stored_places
from cells.jetstream import JetStream
from cells.log import Bounds, Log, LogError
from cells.relay import PAGE_EVENTS, unpublished
from webhooks.repair.findings import Finding, failure, ok, warning

MANY_BEHIND = 10_000


@dataclass(frozen=True)
class StreamStatus:
    stream: int
    bounds: Bounds
    behind: int | None
    """How many messages this cell has still to look at; None if none of its slots is in it."""
    is_cut: bool
    """Whether the log has dropped messages that this cell has not stored."""


def streams_of(log: Log, current: CellMap, cell: str) -> list[StreamStatus]:
    """Return how far this cell has read each stream; raises LogError.

    A slot that no consumer has taken over yet counts from where the map gives it to this cell.
    """
    places, versions = stored_places(current)
    for slot in current.of_cell(cell):
        if slot not in versions and slot not in current.moves:
            stream, since = current.stream_of(slot), current.since.get(slot, 0)
            places[stream] = min(since, places.get(stream, since))
    found = []
    for stream in range(current.streams):
        bounds = log.bounds(stream)
        position = places.get(stream)
        behind = None if position is None else max(0, bounds.last - position)
        is_cut = position is not None and bounds.first > position + 1
        found.append(StreamStatus(stream, bounds, behind, is_cut))
    return found


def check_cells() -> Iterator[Finding]:
    """Check that the log answers, that the cell follows it, and that nothing was refused."""
    try:
        log = JetStream(settings.CELLS_NATS_URL)
        try:
            yield from _look(log)
        finally:
            log.close()
    except LogError as problem:
        yield failure("cells", str(problem), "Start the NATS servers that CELLS_NATS_URL names")
    except MapMissingError as problem:
        yield failure("cells", str(problem), "manage.py cells init")


def _look(log: Log) -> Iterator[Finding]:
    current = read_map(log)
    streams = streams_of(log, current, settings.CELL_NAME)
    behind = sum(one.behind or 0 for one in streams)
    if cut := [str(one.stream) for one in streams if one.is_cut]:
        yield failure(
            "cells",
            f"The log has dropped messages that this cell has not stored, in {', '.join(cut)}.",
            "Publish the lost days again: set the cursor in the producers' cells_relay back",
        )
    if behind > MANY_BEHIND:
        yield warning(
            "cells",
            f"This cell is {behind:,} messages behind the log.",
            "manage.py cells consume",
            count=behind,
        )
    waiting = unpublished() or 0
    if waiting == PAGE_EVENTS:
        yield warning(
            "cells",
            f"At least {waiting:,} events of this database are not published yet.",
            "manage.py cells relay",
            count=waiting,
        )
    for slot, (from_, to, *_) in sorted(current.moves.items()):
        yield warning(
            "cells",
            f"Slot {slot} is being moved from {from_} to {to}: nobody stores its events meanwhile.",
            f"manage.py cells move {slot} --to {to}",
        )
    count, refusals = log.refusals(3)
    if count:
        reasons = "; ".join(f"{one.message_id}: {one.reason}" for one in refusals)
        yield warning(
            "cells",
            f"Messages that no cell could store: {count:,}, the latest: {reasons}",
            "Mend the producer and publish them again with new ids; nats stream purge DEAD",
            count=count,
        )
    if not (count or behind > MANY_BEHIND or current.moves or cut or waiting == PAGE_EVENTS):
        yield ok(
            "cells", f"The log answers; {behind:,} messages of it are still to be stored here."
        )
