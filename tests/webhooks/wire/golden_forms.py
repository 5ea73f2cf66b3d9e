"""What every form makes of every event type's example in every version, as text.

`python -m tests.webhooks.wire.golden_forms` writes the golden files anew, for a new event type or form.
What stands there already must not change: deliveries of before are sent so again.
"""

import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import django

if TYPE_CHECKING:
    from webhooks.catalog import EventType

FIELDS = ["id", "amount", "status", "endedAt", "message", "place", "size.height"]
"""Of the form `fields`."""
FOLDER = Path(__file__).parent / "golden"


def golden_text(form: str) -> str:
    """Return the requests' parts that the form decides, by event type and version."""
    # Here, as Django has to be set up first.
    from tests.webhooks.versions import parcels
    from webhooks import catalog

    types = list(enumerate(catalog.all_types()))
    with parcels() as with_versions:
        blocks = [
            rendered_text(form, place, one, version)
            for place, one in [*types, (1000, with_versions)]
            for version in one.versions
        ]
    return "\n\n".join(blocks) + "\n"


def rendered_text(form: str, place: int, one: "EventType", version: date) -> str:
    from webhooks.choices import Form
    from webhooks.outbox.event_data import encode
    from webhooks.outbox.store import build_event
    from webhooks.wire.forms import render, spec_text

    event = build_event(
        one.name,
        None,
        encode(one.example).text,
        event_id=UUID(int=0x0193570E2C7A7BCD8F0A1B2C3D4E5F60 + place),
        created_at=datetime(2026, 11, 23, 10, 30, 0, 123456, tzinfo=UTC),
    )
    reference = "" if place % 2 else f'{one.group}:Zoë "{place}" 100 %'
    fields = FIELDS if form == Form.FIELDS else None
    recorded = None if form == Form.STANDARD else form
    spec = spec_text(form, fields=fields) if fields else None
    if version != one.version:
        recorded, spec = "key", spec_text(form, fields=fields, version=version)
    rendered = render(recorded, bytes(event.payload), reference, spec, event.version)
    lines = [b"Content-Type: " + rendered.content_type, *rendered.header_lines, b""]
    if version != one.version:
        lines.insert(0, f"({one.name}, version {version})".encode())
    return b"\n".join([*lines, rendered.body]).decode()


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from webhooks.choices import Form

    FOLDER.mkdir(exist_ok=True)
    for form in Form.values:
        (FOLDER / f"{form}.txt").write_text(golden_text(form))


if __name__ == "__main__":
    main()
