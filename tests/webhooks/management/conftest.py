"""Run commands in this process, with their standard streams."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from config.services import BASE_DIR
from webhooks import service
from webhooks.models import Webhook


@dataclass
class Ran:
    """The output and the exit code of a command."""

    out: str
    err: str
    code: int


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: Any, stdin: str | None = None, answers: str | None = None) -> Ran:
        out, err = StringIO(), StringIO()
        given = StringIO(answers if answers is not None else stdin or "")
        given.isatty = lambda: answers is not None  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", given)
        code = 0
        try:
            call_command(*map(str, arguments), "--no-color", stdout=out, stderr=err)
        except CommandError as problem:
            err.write(f"{problem}\n")
            code = problem.returncode
        except SystemExit as end:
            code = int(end.code or 0)
        return Ran(out.getvalue(), err.getvalue(), code)

    return run


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook(events=["project.*"])


def hold_back(reason: str, until: datetime) -> None:
    """Hold all deliveries back: by open breakers, by Retry-After, or by a pause."""
    if reason == "breaker":
        Webhook.objects.update(breaker_state="open", breaker_probe_at=until)
    elif reason == "asked for time":
        Webhook.objects.update(held_until=until)
    else:
        service.pause_sending()


def run_without_postgres(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process whose Postgres is away."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env=os.environ | {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        check=False,
    )
