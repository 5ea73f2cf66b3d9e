"""The map: which cell has which slot. It lives in the log and changes by compare-and-swap."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from cells.log import Log, MapChangedError
from cells.slots import SLOTS, stream_of
from webhooks.errors import WebhooksError


class MapMissingError(WebhooksError):
    """There is no map yet."""

    def __init__(self) -> None:
        super().__init__("There is no map of cells yet: run manage.py cells init.")


@dataclass(frozen=True)
class CellMap:
    streams: int
    cells: Mapping[str, str]
    """The base URL of each cell, by its name."""
    slots: Sequence[str]
    """The cell of each slot."""
    since: Mapping[int, int] = field(default_factory=dict)
    """The position after which its cell reads a slot; 0 for slots that never moved."""
    granted: Mapping[int, int] = field(default_factory=dict)
    """How often a slot was given to a cell anew."""
    moves: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Slots that are being moved: from which cell, and to which; once they are copied, also which
    transactions of the old cell's Postgres the copy has seen. No cell reads them meanwhile."""
    revision: int = 0

    @classmethod
    def of(cls, streams: int, cells: Mapping[str, str]) -> "CellMap":
        """Return a first map, which gives each cell its share of neighbouring slots."""
        names = list(cells)
        return cls(streams, dict(cells), [names[n * len(names) // SLOTS] for n in range(SLOTS)])

    def of_cell(self, cell: str) -> list[int]:
        """Return the slots of a cell."""
        return [slot for slot, name in enumerate(self.slots) if name == cell]

    def stream_of(self, slot: int) -> int:
        return stream_of(slot, self.streams)

    def begin_move(self, slot: int, to: str) -> "CellMap":
        """Return the map with a slot that no cell reads until its move ends."""
        return replace(self, moves={**self.moves, slot: [self.slots[slot], to]})

    def grant(self, slot: int, cell: str, since: int) -> "CellMap":
        """Return the map with a slot given to a cell, which reads it after a position."""
        slots = [cell if number == slot else name for number, name in enumerate(self.slots)]
        granted = {**self.granted, slot: self.granted.get(slot, 0) + 1}
        return replace(self, slots=slots, since={**self.since, slot: since}, granted=granted)

    def note_copied(self, slot: int, snapshot: str) -> "CellMap":
        """Return the map with a move that has copied what this snapshot (pg_snapshot) saw."""
        return replace(self, moves={**self.moves, slot: [*self.moves[slot][:2], snapshot]})

    def end_move(self, slot: int) -> "CellMap":
        """Return the map with a slot that its cell may read."""
        return replace(self, moves={n: ends for n, ends in self.moves.items() if n != slot})

    def to_json(self) -> bytes:
        document = asdict(self)
        del document["revision"]
        return json.dumps(document).encode()

    @classmethod
    def from_json(cls, text: bytes | str, revision: int) -> "CellMap":
        document = json.loads(text)
        for name in ("since", "granted", "moves"):
            document[name] = {int(slot): value for slot, value in document[name].items()}
        return cls(**document, revision=revision)


def read_map(log: Log) -> CellMap:
    """Return the current map; raises MapMissingError and LogError."""
    value, revision = log.read_map()
    if not value:
        raise MapMissingError
    return CellMap.from_json(value, revision)


def change_map(log: Log, change: Callable[[CellMap], CellMap]) -> CellMap:
    """Write what `change` makes of the current map, and return it; tries again after other changes.

    Raises what `change` raises, MapMissingError and LogError.
    """
    while True:
        before = read_map(log)
        after = change(before)
        try:
            return replace(after, revision=log.write_map(after.to_json(), before.revision))
        except MapChangedError:
            continue
