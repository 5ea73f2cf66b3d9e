"""docs/events.md equals the page generated from the catalogue."""

from io import StringIO
from pathlib import Path

from django.core.management import call_command

from webhooks import catalog

PAGE = Path(__file__).resolve().parents[3] / "docs" / "events.md"


def test_page_is_not_stale() -> None:
    output = StringIO()

    call_command("event_reference", stdout=output)

    assert PAGE.read_text() == output.getvalue(), "The page is stale: run make docs."


def test_page_describes_every_type() -> None:
    headings = {line for line in PAGE.read_text().splitlines() if line.startswith("### ")}

    assert headings == {f"### {event_type.name}" for event_type in catalog.all_types()}
