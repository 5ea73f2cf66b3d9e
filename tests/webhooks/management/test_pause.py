"""`manage.py pause`: pauses and resumes all sending, with entries in the audit log."""

import pytest

from tests.webhooks.management.conftest import Run
from webhooks.models import AuditEntry, Pause

pytestmark = pytest.mark.django_db


def test_pause_and_end(run: Run) -> None:
    paused = run("pause", "--reason", "Too many\x1b[31m")
    reason = Pause.objects.get().reason
    ended = run("pause", "--end")

    assert (paused.code, ended.code, reason) == (0, 0, "Too many\x1b[31m")
    assert paused.out == (
        "All sending is paused (Too many\\x1b[31m). manage.py pause --end resumes it.\n"
    )
    assert ended.out == "Sending is resumed.\n"
    assert not Pause.objects.exists()
    assert list(AuditEntry.objects.order_by("id").values_list("action", "changes")) == [
        ("sending.pause", {"paused": [False, True], "reason": "Too many\x1b[31m"}),
        ("sending.resume", {"paused": [True, False]}),
    ]


def test_repeated_pause_and_resume_are_reported_and_not_recorded(run: Run) -> None:
    not_paused = run("pause", "--end")
    since = Pause.objects.create(reason="First").created_at
    again = run("pause", "--reason", "Second")

    assert not_paused.out == "Sending is not paused.\n"
    assert again.out == (
        f"All sending is already paused, since {since:%Y-%m-%d %H:%M} UTC (First).\n"
    )
    assert Pause.objects.get().reason == "First"
    assert not AuditEntry.objects.exists()
