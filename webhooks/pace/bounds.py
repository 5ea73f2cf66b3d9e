"""Bounds of untrusted input, and of the messages about it.

Every door checks lengths before it walks a value (invariant 16).
"""

from collections.abc import Iterable, Sized
from itertools import islice

MAX_ITEMS = 1000
"""The maximum entries of a list or an object without a limit of its own."""
MAX_PATTERNS = 100
"""The maximum event types and patterns of one webhook."""
MAX_PROBLEMS = 20
"""The maximum problems that a response names."""
MAX_PROBLEM_CHARACTERS = 500
MAX_NAME_CHARACTERS = 100
"""The maximum length of a client's name in a message."""


def length_problem(value: Sized, most: int = MAX_ITEMS) -> str | None:
    """Return the problem with the length of a list or an object, or None; does not walk it."""
    return f"This has {len(value):,} entries; {most:,} are allowed." if len(value) > most else None


def shortened(text: str, most: int = MAX_PROBLEM_CHARACTERS) -> str:
    """Cut a text that may quote a whole request."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def named(names: Iterable[str]) -> str:
    """Return the first of some names, for a sentence."""
    shown = list(islice(names, MAX_PROBLEMS + 1))
    texts = [shortened(name, MAX_NAME_CHARACTERS) for name in shown[:MAX_PROBLEMS]]
    return ", ".join(texts) + (" and more" if len(shown) > MAX_PROBLEMS else "")
