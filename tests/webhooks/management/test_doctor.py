"""`manage.py doctor`: its output and exit codes."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from projects.models import User
from tests.webhooks.history import finish, trigger
from tests.webhooks.management.conftest import Run
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook, WorkerHeartbeat
from webhooks.repair import partitions
from webhooks.repair.doctor import CHECKS


@pytest.fixture(autouse=True)
def healthy(
    user: User, webhook: Webhook, settings: Settings, empty_valkey: None, unhurried_doctor: None
) -> None:
    settings.DEBUG = True
    WorkerHeartbeat.objects.create(host="a", pid=1)
    trigger(user, 2)
    finish()


def test_healthy_system_prints_a_line_for_each_check(run: Run) -> None:
    ran = run("doctor")

    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * len(CHECKS)
    # Its versions are those of the wheels.
    assert lines.pop(12).startswith("ok       libraries   libcurl ")
    until = partitions.covered_until()
    assert lines[4:] == [
        "ok       workers     1 worker is alive.",
        "ok       backlog     No delivery is due.",
        "ok       chores      All housekeeping chores run and succeed.",
        f"ok       partitions  Attempts have daily partitions until {until:%Y-%m-%d}.",
        "ok       order       Events are in the order of this server's transactions.",
        "ok       failover    No standby was promoted within a day.",
        "ok       versions    No webhook pins a deprecated version.",
        "ok       encryption  All stored values can be decrypted with the first key.",
        "ok       settings    No setting is risky.",
        "ok       audit       All events, deliveries and attempts are consistent.",
    ]


def stuck(user: User) -> Delivery:
    trigger(user, 1)
    delivery = Delivery.objects.get(finished_at=None)
    Delivery.objects.filter(id=delivery.id).update(status="SENDING", claimed_by=new_id())
    return delivery


def test_finding_has_ids_and_a_remedy(run: Run, user: User) -> None:
    delivery = stuck(user)

    ran = run("doctor")
    mended = run("doctor", "--mend")

    assert ran.out.splitlines()[-3:] == [
        "failure  audit       Deliveries in flight at a dead worker: 1.",
        f"                     {delivery.public_id}",
        "                     → manage.py doctor --mend",
    ]
    assert (ran.code, ran.err) == (1, "1 failure, 0 warnings.\n")
    assert (mended.code, mended.err) == (0, "Repaired 1 row.\n")
    delivery.refresh_from_db()
    assert (delivery.status, delivery.claimed_by, delivery.is_suspect) == ("PENDING", None, True)


def test_json(run: Run, user: User) -> None:
    delivery = stuck(user)

    ran = run("doctor", "--format", "json")

    document = json.loads(ran.out)
    assert document["level"] == "failure"
    assert document["findings"][-1] == {
        "check": "audit",
        "level": "failure",
        "message": "Deliveries in flight at a dead worker: 1.",
        "mend": "manage.py doctor --mend",
        "count": 1,
        "ids": [delivery.public_id],
    }


def test_every_fault_is_printed_on_request(run: Run, user: User) -> None:
    delivery = stuck(user)
    Delivery.objects.filter(id=delivery.id).update(claimed_by=user.id)

    ran = run("doctor", "--faults")

    assert ran.out == (
        f"stuck\t{delivery.public_id}\tSENDING, 0 attempts counted, 0 recorded, "
        f"claimed by {user.id}\n"
    )
    assert (ran.code, ran.err) == (1, "1 fault.\n")


def test_faults_that_stay_are_printed_after_mending(run: Run, user: User) -> None:
    delivery = stuck(user)

    ran = run("doctor", "--faults", "--mend")

    assert (ran.code, ran.out, ran.err) == (0, "", "Repaired 1 row.\n")
    delivery.refresh_from_db()
    assert delivery.status == "PENDING"


def test_quick_leaves_the_audit_out(run: Run, user: User) -> None:
    stuck(user)

    ran = run("doctor", "--quick")

    assert (ran.code, len(ran.out.splitlines())) == (0, len(CHECKS) - 1)


@pytest.mark.parametrize(("level", "code"), [("warning", 1), ("failure", 0), ("never", 0)])
def test_fail_level_decides_the_exit_code(run: Run, user: User, level: str, code: int) -> None:
    trigger(user, 1)
    Delivery.objects.filter(finished_at=None).update(
        next_attempt_at=timezone.now() - timedelta(seconds=90)
    )

    assert run("doctor", "--fail-level", level).code == code
