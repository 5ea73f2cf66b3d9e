"""Notes: how a transaction knows what it has stored so far, exact under savepoints.

The number of the last note stands in a setting of Postgres that is local to the transaction. A
commit or a rollback empties it, and a savepoint's rollback brings back what it was before.
"""

import itertools
from dataclasses import dataclass, field

_numbers = itertools.count(1)

POSITION = "current_setting('webhooks.note', true)"
"""An SQL expression: the numbers of the current transaction's last note and of the one before."""

ADVANCE = f"""
set_config('webhooks.note',
           concat_ws(' ', %(note)s::text, nullif(split_part({POSITION}, ' ', 1), '')), true)
"""
"""An SQL expression that makes the note `note` the last one and returns the new position."""


@dataclass(slots=True)
class Note:
    """What is about to be written down, or has been once it has a position."""

    number: str = field(default_factory=lambda: str(next(_numbers)))
    position: str = ""
    """Its number and that of the note before, as Postgres has stored them."""
