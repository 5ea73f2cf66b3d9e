"""Slots: which of 256 parts of the owners an owner belongs to, for ever."""

import hashlib
from uuid import UUID

SLOTS = 256


def slot_of(owner_id: UUID | str | int | None) -> int:
    """Return the slot of an owner's id: the first byte of the SHA-256 of its canonical text.

    Programs in other languages must find the same slot. None, the owner of events without one, is the
    empty text.
    """
    text = "" if owner_id is None else str(owner_id)
    return hashlib.sha256(text.encode()).digest()[0]


SLOT_SQL = "get_byte(sha256(convert_to({owner}::text, 'UTF8')), 0)"
"""The same of an owner's column, as an SQL expression."""
HELD_SQL = f"""EXISTS (SELECT FROM cells_slot s
 WHERE NOT s.is_active AND s.slot = {SLOT_SQL})"""
"""Whether this cell has given an owner away, or is about to: see WEBHOOKS_OWNER_HELD."""


def stream_of(slot: int, streams: int) -> int:
    """Return the number of the stream that carries a slot; neighbours share one."""
    return slot * streams // SLOTS


def mark_of(owner_id: UUID | str | int | None) -> str:
    """Return what the keys of an owner begin with, so that a router knows the slot: `s05-`."""
    return f"s{slot_of(owner_id):02x}-"
