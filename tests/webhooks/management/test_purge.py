"""`manage.py purge`: asks for confirmation and reports exact numbers."""

import json
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from projects.models import User
from tests.webhooks.history import finish, make_older, trigger
from tests.webhooks.management.conftest import Run
from webhooks.models import AuditEntry, Delivery, Event, Webhook
from webhooks.repair import retention
from webhooks.repair.retention import Policy, Purged


@pytest.fixture
def history(user: User, webhook: Webhook) -> None:
    """Two old successes, one old failure, one unfinished delivery."""
    Event.objects.all().delete()
    trigger(user, 2)
    finish()
    trigger(user, 1)
    finish("FAILED")
    make_older(timedelta(days=40))
    trigger(user, 1)


def test_dry_run_prints_the_numbers(run: Run, history: None) -> None:
    ran = run("purge", "--older-than", "30d", "--dry-run")

    before = ran.out.partition("finished before ")[2][:20]
    assert ran.out == (
        f"Would delete 3 deliveries, 3 attempts and 3 events, finished before {before}, "
        "0 deleted webhooks and 0 old redeliveries. (--dry-run)\n"
    )
    assert Delivery.objects.count() == 4
    assert not AuditEntry.objects.exists()


def test_purge_reports_in_json_and_in_the_audit_log(run: Run, history: None) -> None:
    ran = run("purge", "--older-than", "30d", "--keep-failed", "--no-input", "--format", "json")

    document = json.loads(ran.out)
    del document["before"]
    counts = {"deliveries": 2, "attempts": 2, "events": 2, "webhooks": 0, "redeliveries": 0}
    assert document == counts | {"keptPending": 0, "dryRun": False}
    assert set(Delivery.objects.values_list("status", flat=True)) == {"FAILED", "PENDING"}
    assert AuditEntry.objects.get().changes == counts


@pytest.mark.parametrize(("answer", "left", "code"), [("y\n", 1, 0), ("n\n", 4, 1), ("", 4, 1)])
def test_asks_in_a_terminal(run: Run, history: None, answer: str, left: int, code: int) -> None:
    ran = run("purge", "--older-than", "30d", answers=answer)

    assert "permanently? [y/N] " in ran.err
    assert (ran.code, Delivery.objects.count()) == (code, left)


def test_refuses_without_a_terminal(run: Run, history: None) -> None:
    ran = run("purge", "--older-than", "30d")

    assert ran.err.endswith("permanently? To confirm without a terminal, add --no-input.\n")
    assert (ran.code, Delivery.objects.count()) == (1, 4)


def test_owner_is_erased(run: Run, history: None, user: User) -> None:
    ran = run("purge", "--owner", "ada", "--no-input")

    first, second = ran.out.splitlines()
    assert first.startswith(
        "Erase the payloads of 3 events of ada and of 3 attempts, finished before"
    )
    assert second == "Kept 1 payload with unfinished deliveries."
    assert Event.objects.exclude(payload=b"").count() == 1


def test_deleted_owner_is_erased_by_id(run: Run, history: None, user: User) -> None:
    user_id = user.id
    user.delete()
    finish("CANCELLED")

    ran = run("purge", "--owner", user_id, "--no-input")

    assert ran.code == 0
    assert not Event.objects.filter(owner_id=user_id).exclude(payload=b"").exists()


def test_interrupted_purge_reports_its_progress(
    run: Run, history: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    purge = retention.purge

    def interrupted(policy: Policy, **options: Any) -> Iterator[Purged]:
        for step in purge(policy, **options):
            signal.raise_signal(signal.SIGINT)
            yield step

    monkeypatch.setattr(retention, "purge", interrupted)

    ran = run("purge", "--older-than", "30d", "--batch-size", 1, "--no-input")

    assert ran.out.startswith("Delete 1 delivery, 1 attempt and 1 event, finished before ")
    assert ran.err.splitlines()[-1] == "Interrupted; run the command again to continue."
    assert (ran.code, Delivery.objects.count()) == (130, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give the minimum age: --older-than 90d."),
        (
            ["--older-than", "1d", "--status", "failed,pending"],
            "Deliveries with the status pending are unfinished and cannot be purged.",
        ),
        (
            ["--older-than", "1d", "--status", "failed", "--keep-failed"],
            "Give either --status or --keep-failed.",
        ),
        (["--older-than", "soon"], "'soon' is not a duration such as 90s, 15m, 2h, 7d or 4w"),
    ],
)
def test_wrong_usage(run: Run, db: None, arguments: list[str], message: str) -> None:
    ran = run("purge", *arguments)

    assert message in ran.err
    assert (ran.code, ran.out) == (1 if "soon" in message else 2, "")
