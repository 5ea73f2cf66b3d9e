"""What `manage.py cells` refuses before it asks the log. No server is needed."""

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from cells.management.commands.cells import Command

CELL_A = "--cell=a=https://a.example.com"


@pytest.mark.parametrize(
    "action", [["relay"], ["consume"], ["routes"], ["init", CELL_A], ["move", "3", "--cancel"]]
)
def test_option_of_the_status_is_refused_beside_actions(action: list[str]) -> None:
    with pytest.raises(CommandError, match=f"^{action[0]} ignores --seconds: leave") as refused:
        call_command(Command(), "--seconds", "5", *action)

    assert refused.value.returncode == 2


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([CELL_A, "--cell=a=https://b.example.com"], "Two cells have the same name"),
        (["--cell=a b=https://a.example.com"], "with a name as CELL_NAME takes it"),
        (["--cell=A=https://a.example.com"], "with a name as CELL_NAME takes it"),
        (["--cell=a=https://a.example.com\n"], "is not of the form"),
        (["--cell=a=ftp://a.example.com"], "is not of the form"),
    ],
)
def test_cells_that_could_not_be_told_apart_are_refused(cells: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        call_command(Command(), "init", *cells)
