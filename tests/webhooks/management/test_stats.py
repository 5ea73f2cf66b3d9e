"""`manage.py stats`: exact output in table and JSON."""

import json
import os
import signal
from typing import Any

import pytest
from django.db import connection

from projects.models import User
from tests.webhooks.history import finish, trigger
from tests.webhooks.management.conftest import Run
from webhooks.figures import present
from webhooks.ids import new_id
from webhooks.models import Attempt, Webhook

WHEN = "2099-01-02T03:04:05Z"


@pytest.fixture
def history(user: User, webhook: Webhook) -> None:
    trigger(user, 3)
    finish()
    trigger(user, 1)
    finish("FAILED")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhooks_delivery SET delivered_at = created_at + interval '20 ms'"
            " WHERE status = 'SUCCESS'"
        )
        cursor.execute("UPDATE webhooks_attempt SET started_at = %s", [WHEN])


def lines(text: str) -> list[str]:
    return text.splitlines()


def words(line: str) -> str:
    return " ".join(line.split())


def test_by_webhook(run: Run, history: None, webhook: Webhook) -> None:
    ran = run("stats", "--since", "2020-01-01")

    header, first, totals, blank, summary, now = lines(ran.out)
    assert (ran.code, ran.err, blank) == (0, "", "")
    assert words(header) == "WEBHOOK NAME STATE SENT OK% P50 P95 RETRYING FAILED LAST"
    assert words(first)[:-15] == f"{webhook.public_id} Orders active 4 75.0 7 ms 7 ms 0 1"
    assert words(totals)[:-15] == "all 4 75.0 7 ms 7 ms 0 1"
    assert summary == (
        "Since 2020-01-01 00:00 UTC: 4 deliveries, 3 succeeded, 1 failed, 0 cancelled; "
        "4 attempts; time to delivery p50 20 ms, p95 20 ms."
    )
    assert now == "Now: 0 due, 0 held, 0 scheduled, 0 in flight; 0 workers alive."


def test_by_type(run: Run, history: None) -> None:
    header, first, totals, *_ = lines(run("stats", "--by", "type").out)

    assert header.startswith("TYPE             SENT   OK%   P50   P95  RETRYING  FAILED  LAST")
    assert first.startswith("project.deleted     4  75.0  7 ms  7 ms         0       1  ")
    assert totals.startswith("all                 4  75.0  7 ms  7 ms         0       1  ")


def test_by_status(run: Run, history: None) -> None:
    assert lines(run("stats", "--by", "status").out)[:7] == [
        "STATUS     DELIVERIES  SHARE%",
        "PENDING             0     0.0",
        "SENDING             0     0.0",
        "RETRYING            0     0.0",
        "SUCCESS             3    75.0",
        "FAILED              1    25.0",
        "CANCELLED           0     0.0",
    ]


def test_by_kind(run: Run, history: None) -> None:
    assert lines(run("stats", "--by", "kind").out)[:2] == [
        "KIND         CODE  MEANING       ATTEMPTS  DELIVERIES  WEBHOOKS  LAST",
        "http_status   500  Error status         1           1         1  01-02 03:04:05",
    ]


def test_kind_of_a_newer_version_is_shown_by_its_name(run: Run, history: None) -> None:
    Attempt.objects.exclude(failure_kind="").update(failure_kind="of_tomorrow")

    ran = run("stats", "--by", "kind")

    assert words(lines(ran.out)[1]).startswith("of_tomorrow 500 of_tomorrow 1 1 1")


def test_json(run: Run, history: None, webhook: Webhook) -> None:
    ran = run("stats", "--since", "2020-01-01", "--format", "json")

    document: dict[str, Any] = json.loads(ran.out)
    (group,) = document["groups"]
    assert list(document) == ["since", "by", "groups", "totals", "backlog", "workersAlive"]
    assert document["since"] == "2020-01-01T00:00:00.000Z"
    assert (group["id"], group["name"], group["state"]) == (webhook.public_id, "Orders", "active")
    assert (group["sent"], group["successRate"], group["durationP95Ms"]) == (4, 0.75, 7)
    assert document["totals"]["deliveryP50Ms"] == 20
    assert document["backlog"] == {
        "due": 0, "oldestDueSeconds": None, "held": 0, "scheduled": 0, "retrying": 0,
        "sending": 0, "unfinished": 0, "isPaused": False,
    }  # fmt: skip


@pytest.mark.parametrize("by", ["type", "status", "kind"])
def test_json_of_other_groups(run: Run, history: None, by: str) -> None:
    document = json.loads(run("stats", "--by", by, "--format", "json").out)

    assert [group[by] for group in document["groups"]] == {
        "type": ["project.deleted"],
        "status": ["PENDING", "SENDING", "RETRYING", "SUCCESS", "FAILED", "CANCELLED"],
        "kind": ["http_status"],
    }[by]


def test_owner_without_webhooks_has_nothing(run: Run, history: None, other_user: User) -> None:
    ran = run("stats", "--owner", "bob")

    assert lines(ran.out)[1].split() == ["all", "0", "-", "-", "-", "0", "0", "-"]


def test_unknown_webhook_is_refused(run: Run, db: None) -> None:
    webhook_id = new_id()

    ran = run("stats", "--webhook", webhook_id)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"There is no webhook whk_{webhook_id.hex}.\n"


def test_watch_repeats_until_interrupted(
    run: Run, history: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = present.backlog

    def backlog(*selection: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return look(*selection)

    monkeypatch.setattr(present, "backlog", backlog)

    ran = run("stats", "--watch", 1, "--by", "status", "--format", "json")

    assert ran.code == 0
    assert len({line.partition('"groups"')[2] for line in ran.out.splitlines()}) == 1
    assert len(ran.out.splitlines()) == 2
