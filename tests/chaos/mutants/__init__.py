"""Small sabotages of the product, and who notices: `python -m tests.chaos.mutants [NAME …]`.

Each `NAME.patch` in this folder begins with a sentence that says what it spoils, then `Run:` with what
is to notice it (`chaos` or `pytest`, and arguments for it) and `Caught-by:` with the broken promise
or the test that must name it; where commas divide several, any of them. It is applied to a copy of the code; the working tree stays as it is.
"""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    name: str
    path: Path
    spoils: str
    run: tuple[str, ...]
    caught_by: frozenset[str]
    """One of these is enough."""


def all_mutants() -> list[Mutant]:
    """Return the sabotages by name; raises KeyError where a patch lacks a line of its head."""
    return [_read(path) for path in sorted(FOLDER.glob("*.patch"))]


def _read(path: Path) -> Mutant:
    spoils, *head = path.read_text().partition("\ndiff ")[0].splitlines()
    fields = dict(line.split(": ", 1) for line in head if ": " in line)
    return Mutant(
        path.stem,
        path,
        spoils,
        tuple(fields["Run"].split()),
        frozenset(fields["Caught-by"].split(", ")),
    )
