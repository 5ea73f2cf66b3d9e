"""Notes: numbers by which a transaction knows the events it has stored, across savepoints.

A Postgres setting that is local to the transaction holds the number of the last note. A commit or a
rollback clears it, and a savepoint's rollback restores the previous number.
"""

import itertools
from dataclasses import dataclass, field

_numbers = itertools.count(1)

POSITION = "current_setting('webhooks.note', true)"
"""An SQL expression: the numbers of the current transaction's last two notes, the last one first."""

ADVANCE = f"""
set_config('webhooks.note',
           concat_ws(' ', %(note)s::text, nullif(split_part({POSITION}, ' ', 1), '')), true)
"""
"""An SQL expression that makes the note with number `note` the last one; returns the position."""


@dataclass(slots=True)
class Note:
    """A note of one batch of writes; it has a position once it is stored in Postgres."""

    number: str = field(default_factory=lambda: str(next(_numbers)))
    position: str = ""
    """The value of POSITION after storing the note: its number and that of the note before."""
