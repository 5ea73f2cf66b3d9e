"""How much of a list, an object or a text is looked at, and how much is said of what is wrong.

Every door asks here before it walks what somebody sent (invariant 16).
"""

from collections.abc import Iterable, Sized
from itertools import islice

MAX_ITEMS = 1000
"""Of a list or an object that has no limit of its own."""
MAX_PATTERNS = 100
"""Event types and patterns of one webhook."""
MAX_PROBLEMS = 20
"""Told of one request; the rest are counted at most."""
MAX_PROBLEM_CHARACTERS = 500
MAX_NAME_CHARACTERS = 100
"""Of a name that somebody else chose, where it is repeated."""


def length_problem(value: Sized, most: int = MAX_ITEMS) -> str | None:
    """Return what is wrong with the length of a list or an object, without looking into it."""
    return f"This has {len(value):,} entries; {most:,} are allowed." if len(value) > most else None


def shortened(text: str, most: int = MAX_PROBLEM_CHARACTERS) -> str:
    """Cut a text that may repeat all of what somebody sent."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def named(names: Iterable[str]) -> str:
    """Name the first of some names, for a sentence."""
    shown = list(islice(names, MAX_PROBLEMS + 1))
    texts = [shortened(name, MAX_NAME_CHARACTERS) for name in shown[:MAX_PROBLEMS]]
    return ", ".join(texts) + (" and more" if len(shown) > MAX_PROBLEMS else "")
