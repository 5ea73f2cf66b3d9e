"""The log between producers and cells, whatever program keeps it (cells/jetstream.py is NATS JetStream).

A log is a fixed number of streams, each replicated, append-only and numbered by positions from 1. A slot
lives in one stream. So a stream is what Kafka calls a partition, and a position its offset.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class LogError(Exception):
    """The log does not answer, or did not confirm what was published; to try again is safe."""


class LogClosedError(LogError):
    """The connection has been ended for good: only another one can help."""


class MapChangedError(Exception):
    """Somebody else has changed the map since it was read."""


class Entry(NamedTuple):
    """What a producer publishes."""

    id: str
    """The log stores an id once, for a while at least."""
    slot: int
    headers: Mapping[str, str]
    data: bytes


class Message(NamedTuple):
    """What a cell reads."""

    stream: int
    position: int
    id: str
    slot: int
    is_direct: bool
    """Whether a producer of its own published it, not a relay."""
    headers: Mapping[str, str]
    data: bytes


class Refusal(NamedTuple):
    """A message that no cell could store."""

    position: int
    """Among the refused."""
    reason: str
    message_id: str
    data: bytes


class Bounds(NamedTuple):
    first: int
    last: int
    """One less than `first` in an empty stream."""


class Reader(Protocol):
    """Reads the messages of some streams, in the order of each."""

    def take(self, limit: int, seconds: float) -> list[Message]:
        """Return at most `limit` messages, fewer large ones; waits for the first, so long at most."""

    def close(self) -> None: ...


class Log(Protocol):
    """A connection to the log. Every method but close() raises LogError."""

    def create(self, streams: int) -> None:
        """Create what is missing of streams and dead letters; existing ones stay."""

    def publish(self, streams: Mapping[int, Sequence[Entry]]) -> None:
        """Append entries to streams, in order, except those whose ids a stream has; return once stored.

        After an error a part of them may be stored, but none without all before it in its stream.
        """

    def reader(self, after: Mapping[int, int]) -> Reader:
        """Return a reader that begins after these positions, by stream."""

    def bounds(self, stream: int) -> Bounds: ...

    def read_map(self) -> tuple[bytes, int]:
        """Return the map and its revision; empty and 0 if there is none."""

    def write_map(self, value: bytes, revision: int) -> int:
        """Replace the map of this revision and return the new one; raises MapChangedError."""

    def refuse(self, reasons: Sequence[tuple[Message, str]]) -> None:
        """Put messages to the dead letters with reasons, once however often this is called.

        Cuts the end off the largest messages.
        """

    def refusals(self, limit: int) -> tuple[int, list[Refusal]]:
        """Return the number of dead letters and the latest of them."""

    def close(self) -> None: ...
