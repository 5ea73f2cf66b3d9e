"""Arguments and output that all commands share."""

import os
import subprocess
import sys
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import CommandError, CommandParser

from config.services import BASE_DIR
from projects.models import User
from tests.webhooks.management.conftest import Run, run_without_postgres
from webhooks.management import arguments, reference, terminal
from webhooks.models import Pause, Webhook

ID = UUID("0193570e-2c7a-7bcd-8f0a-1b2c3d4e5f60")


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (arguments.public_id("whk_"), f"whk_{ID.hex}", ID),
        (arguments.public_id("whk_"), str(ID), ID),
        (arguments.duration, "90s", timedelta(seconds=90)),
        (arguments.duration, "15m", timedelta(minutes=15)),
        (arguments.duration, "4w", timedelta(weeks=4)),
        (arguments.duration, "36525d", timedelta(days=36_525)),
        (arguments.moment, "2026-11-23", datetime(2026, 11, 23, tzinfo=UTC)),
        (arguments.moment, "2026-11-23T10:30:00Z", datetime(2026, 11, 23, 10, 30, tzinfo=UTC)),
        (arguments.moment, "2026-11-23T10:30", datetime(2026, 11, 23, 10, 30, tzinfo=UTC)),
        (arguments.moment, "2026-11-23T10:30+16:00", datetime(2026, 11, 22, 18, 30, tzinfo=UTC)),
        (arguments.patterns, "project.*, session.ended", ["project.*", "session.ended"]),
        (arguments.statuses, "failed,Cancelled", ["FAILED", "CANCELLED"]),
        (arguments.at_least(1), "12", 12),
        (arguments.rate, "50/s", 50.0),
        (arguments.rate, "30/m", 0.5),
        (arguments.rate, "0.5", 0.5),
        (arguments.rate, "1/w", 1 / 604_800),
    ],
)
def test_argument_is_read(db: None, read: Callable[[str], Any], text: str, value: Any) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (
            arguments.public_id("whk_"),
            "whk_1",
            "'whk_1' is not an id of the form whk_<32 hex digits>",
        ),
        (arguments.public_id("whk_"), f"evt_{ID.hex}", "not an id of the form whk_"),
        (arguments.public_id("whk_"), "no-uuid", "not an id"),
        (arguments.public_id("whk_"), "whk_" + "\u0661" * 32, "not an id"),
        (arguments.public_id("whk_"), "whk_0x" + "1" * 30, "not an id"),
        (arguments.duration, "90", "'90' is not a duration such as"),
        (arguments.duration, "-1d", "not a duration"),
        (arguments.duration, "d", "not a duration"),
        (arguments.duration, "9999999d", "not a duration"),
        (
            arguments.duration,
            "36526d",
            "not a duration such as 90s, 15m, 2h, 7d or 4w, of at most a hundred",
        ),
        (arguments.duration, "999999w", "of at most a hundred years"),
        (arguments.moment, "yesterday", "'yesterday' is not a time such as 2h"),
        (arguments.moment, "2026-13-01", "not a time"),
        (arguments.moment, "999999d", "of at most a hundred years"),
        (arguments.moment, "0001-01-01T00:00:00+14:00", "not a time"),
        (arguments.moment, "1899-12-31", "of the years 1900 to 9000"),
        (arguments.moment, "9999-12-31T23:59:59-14:00", "of the years 1900 to 9000"),
        (arguments.pattern, "project", "'project' selects no event type"),
        (arguments.statuses, "failed,broken", "'broken' is not a status; choose from pending"),
        (arguments.at_least(1), "0", "'0' is not a whole number of at least 1"),
        (arguments.at_least(1), "²", "not a whole number"),
        (arguments.rate, "0/s", "'0/s' is not a rate such as 50/s or 30/m"),
        (arguments.rate, "5/x", "not a rate"),
        (arguments.text, "", "the value is empty; give one, or leave the option out"),
        (arguments.text, " \t", "the value is empty"),
        (arguments.text, "a\0", "'a\\x00' holds NUL or bytes that are not UTF-8"),
        (arguments.text, "a\udcff", "'a\\udcff' holds NUL or bytes"),
        (arguments.path, "", "the path is empty; give one, or leave the option out"),
        (arguments.rate, "nan", "not a rate"),
        (arguments.rate, "1e-300", "from 1/w to 100000/s"),
    ],
)
def test_invalid_argument_is_refused_with_a_clear_error(
    read: Callable[[str], Any], text: str, message: str
) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        read(text)

    assert message in str(refused.value)


@pytest.mark.parametrize(
    "command",
    [
        ["redeliver", "--owner", "ada", "--since", "999999d"],
        ["redeliver", "--owner", "ada", "--until", "999999w"],
        ["stats", "--since", "999999d"],
        ["purge", "--older-than", "999999d"],
    ],
)
def test_too_long_ago_is_wrong_usage(command: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 2
    assert "of at most a hundred years" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_no_command_takes_an_empty_value_for_an_option_that_was_left_out() -> None:
    accepted = []
    for name in reference.own_commands():
        command = load_command_class(get_commands()[name], name)
        if isinstance(command, terminal.Command):
            parser = CommandParser()
            command.add_arguments(parser)
            for option in parser._actions:
                if option.option_strings and option.nargs != 0:
                    with suppress(ArgumentError):
                        parser._get_values(option, [""])
                        accepted.append(f"{name} {option.option_strings[0]}")

    assert accepted == []


def test_owner_of_an_empty_variable_is_wrong_usage() -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "purge", "--owner", "", "--no-input"],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (2, "")
    assert "argument --owner: the value is empty" in ran.stderr


@pytest.mark.parametrize(
    ("command", "beside"),
    [
        ("redeliver --resume {red} --dry-run", "--dry-run"),
        ("redeliver {del} --resume {red}", "ID"),
        ("redeliver --resume {red} --limit 1", "--limit"),
        ("redeliver --resume {red} --rate 1/s", "--rate"),
        ("redeliver --resume {red} --owner ada", "--owner"),
        ("redeliver --resume {red} --webhook {whk} --wait", "--webhook"),
        ("redeliver --resume {red} --event {evt} --missing", "--event, --missing"),
        ("redeliver --resume {red} --since 1h", "--since"),
        ("redeliver --resume {red} --status failed", "--status"),
        ("redeliver --resume {red} --type project.created", "--type"),
        ("redeliver --resume {red} --force", "--force"),
        ("doctor --faults --format json", "--format"),
        ("doctor --faults --fail-level never", "--fail-level"),
        ("doctor --faults --quick", "--quick"),
        ("doctor --former-primary x --mend", "--mend"),
        ("doctor --former-primary x --quick", "--quick"),
        ("doctor --former-primary x --faults --format json", "--format"),
        ("stats --by type --limit 3", "--limit"),
        ("trigger project.created --list", "TYPE"),
        ("trigger project.created --example --owner ada", "--owner"),
        ("trigger project.created --example --wait", "--wait"),
        ("listen --owner ada --print-secret --forward-to localhost:1", "--forward-to"),
        ("listen --owner ada --print-secret --events project.*", "--events"),
        ("pause --end --reason x", "--reason"),
        ("receiver --replay x --status 503", "--status"),
        ("receiver --replay x --save y", "--save"),
    ],
)
def test_option_that_would_be_ignored_is_refused(
    run: Run, user: User, command: str, beside: str
) -> None:
    Pause.objects.create(reason="")
    ids = {prefix: f"{prefix}_{7:032x}" for prefix in ("red", "del", "whk", "evt")}

    ran = run(*command.format(**ids).split())

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith(f" ignores {beside}: leave one of them out.\n")
    assert Pause.objects.exists()


def test_no_call_takes_an_empty_owner_for_everybody(user: User, webhook: Webhook) -> None:
    calls: dict[str, dict[str, Any]] = {
        "purge": {"is_interactive": False},
        "redeliver": {"webhook": webhook.pk},
        "stats": {},
        "trigger": {"type": "project.created"},
        "listen": {},
    }
    for name, options in calls.items():
        with pytest.raises(CommandError, match="The owner '' does not exist"):
            call_command(name, owner="", **options)


@pytest.mark.parametrize("since", ["36525d", "1900-01-01", "9000-12-31T23:59:59-23:59"])
def test_the_farthest_times_do(run: Run, user: User, since: str) -> None:
    for command in (["stats"], ["redeliver", "--owner", "ada", "--dry-run"]):
        for output in ("table", "json"):
            ran = run(*command, "--since", since, "--format", output)
            assert (ran.code, ran.err) == (0, "")
    ran = run("purge", "--older-than", "36525d", "--dry-run", "--format", "json")
    assert (ran.code, ran.err) == (0, "")


def test_duration_means_before_now() -> None:
    late_by = arguments.moment("2h") + timedelta(hours=2) - datetime.now(UTC)

    assert abs(late_by) < timedelta(seconds=5)


@pytest.mark.parametrize("attribute", ["email", "username", "id"])
def test_owner_is_found(user: User, other_user: User, attribute: str) -> None:
    assert arguments.find_owner(str(getattr(user, attribute))) == user


def test_unknown_owner_is_refused(user: User) -> None:
    with pytest.raises(CommandError, match=r"The owner 'eve' does not exist: use an e-mail"):
        arguments.find_owner("eve")


def test_table_aligns_and_disarms() -> None:
    assert terminal.table(["NAME", "N"], [["a\x1b[31m", 1], ["bb", 1000]], right="N") == [
        "NAME          N",
        "a\\x1b[31m     1",
        "bb         1000",
    ]


def test_words_are_counted() -> None:
    assert terminal.counted(1, "event") == "1 event"
    assert terminal.counted(1204, "delivery", "deliveries") == "1,204 deliveries"


def test_bar() -> None:
    assert terminal.bar(5, 20, width=4) == "[#---] 5/20"
    assert terminal.bar(0, 0, width=4) == "[####] 0/0"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_goes_to_a_terminal_only() -> None:
    screen, file = Terminal(), StringIO()
    for err in (screen, file):
        command = terminal.Command(stderr=err, no_color=True)
        command.verbosity = 1
        command.progress("[#---] 5/20")
        command.end_progress()

    assert screen.getvalue() == "\r[#---] 5/20\x1b[K\r\x1b[K"
    assert file.getvalue() == ""


@pytest.mark.parametrize("command", ["webhooks_events", "doctor --quick", "command_reference"])
def test_closed_pipe_ends_a_command_without_a_word(command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        ran = subprocess.run(
            [sys.executable, "manage.py", *command.split()],
            cwd=BASE_DIR,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize(
    "command",
    [
        ["stats", "--owner", "\udcff"],
        ["pause", "--reason", "\udcff"],
        ["doctor", "--former-primary", "\udcff"],
        ["receiver", "--host", "\udcff"],
        ["webhooks_alive", "--host", "\udcff"],
        ["listen", "--owner", "ada", "--after", "\udcff"],
        ["trigger", "project.created", "--owner", "\udcff"],
        ["trigger", "\udcff", "--owner", "ada"],
        ["trigger", "project.created", "--owner", "ada", "--data", '{"a":"\udcff"}'],
        ["trigger", "project.created", "--owner", "ada", "--data", "@\udcff"],
        ["redeliver", "\udcff"],
        ["redeliver", "--status", "\udcff"],
        ["redeliver", "--since", "\udcff"],
        ["redeliver", "--rate", "\udcff"],
        ["receiver", "--port", "\udcff"],
        ["receiver", "--secret", "\udcff"],
        ["receiver", "--replay", "\udcff"],
        ["listen", "--owner", "ada", "--token-file", "\udcff"],
        ["listen", "--owner", "ada", "--forward-to", "http://\udcff/"],
        ["listen", "--server", "http://localhost", "--token-file", "\udcff"],
        ["listen", "--owner", "ada", "--events", "\udcff"],
    ],
)
def test_bytes_that_are_no_text_are_refused_in_a_line(
    run: Run, user: User, command: list[str]
) -> None:
    ran = run(*command)

    assert ran.code in (1, 2)
    assert (ran.out, ran.err.count("\n")) == ("", 1)


def test_without_a_database_commands_say_so_in_a_line() -> None:
    ran = run_without_postgres("stats")

    assert ran.stderr.startswith("CommandError: Postgres is unavailable; see manage.py doctor. ")
    assert (ran.returncode, ran.stdout) == (1, "")


def test_without_a_database_the_doctor_looks_at_the_rest() -> None:
    ran = run_without_postgres("doctor", "--no-color")

    lines = [line.split()[:2] for line in ran.stdout.splitlines() if not line.startswith(" ")]
    assert lines == [
        ["failure", "database"],
        ["ok", "valkey"],
        ["ok", "libraries"],
        ["ok", "settings"],
    ]
    assert (ran.returncode, ran.stderr) == (1, "CommandError: 1 failure, 0 warnings.\n")
