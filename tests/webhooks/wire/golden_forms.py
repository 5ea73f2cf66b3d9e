"""What every form makes of every event type's example, as text.

`python -m tests.webhooks.wire.golden_forms` writes the golden files anew, for a new event type or form.
What stands there already must not change: deliveries of before are sent so again.
"""

import os
from pathlib import Path
from uuid import UUID

import django

FIELDS = ["id", "amount", "status", "endedAt", "message"]
"""Of the form `fields`."""
FOLDER = Path(__file__).parent / "golden"


def golden_text(form: str) -> str:
    """Return the requests' parts that the form decides, by event type."""
    # Here, as Django has to be set up first.
    from datetime import UTC, datetime

    from webhooks import catalog
    from webhooks.choices import Form
    from webhooks.outbox.event_data import encode
    from webhooks.outbox.store import build_event
    from webhooks.wire.forms import render, spec_text

    blocks = []
    for place, one in enumerate(catalog.all_types()):
        event = build_event(
            one.name,
            None,
            encode(one.example).text,
            event_id=UUID(int=0x0193570E2C7A7BCD8F0A1B2C3D4E5F60 + place),
            created_at=datetime(2026, 11, 23, 10, 30, 0, 123456, tzinfo=UTC),
        )
        reference = "" if place % 2 else f'{one.group}:Zoë "{place}" 100 %'
        spec = spec_text(form, fields=FIELDS) if form == Form.FIELDS else None
        recorded = None if form == Form.STANDARD else form
        rendered = render(recorded, bytes(event.payload), reference, spec)
        lines = [b"Content-Type: " + rendered.content_type, *rendered.header_lines, b""]
        blocks.append(b"\n".join([*lines, rendered.body]).decode())
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from webhooks.choices import Form

    FOLDER.mkdir(exist_ok=True)
    for form in Form.values:
        (FOLDER / f"{form}.txt").write_text(golden_text(form))


if __name__ == "__main__":
    main()
