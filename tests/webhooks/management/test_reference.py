"""docs/commands.md equals the present help texts of all commands."""

import pytest
from django.core.management import get_commands, load_command_class

from config.services import BASE_DIR
from tests.webhooks.management.conftest import Run
from webhooks.management import reference


def test_page_is_not_stale(run: Run) -> None:
    page = (BASE_DIR / "docs" / "commands.md").read_text()

    assert page == run("command_reference").out, "The page is stale: run make docs."


@pytest.mark.parametrize("name", reference.own_commands())
def test_help_reads_well(name: str) -> None:
    command = load_command_class(get_commands()[name], name)
    text = command.create_parser("manage.py", name).format_help()

    assert command.help.endswith((".", ")."))
    assert not [line for line in text.splitlines() if len(line) > 120]
    assert "None" not in text
