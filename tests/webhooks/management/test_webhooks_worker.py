"""`manage.py webhooks_worker`; as a process that runs on: tests/host_project."""

import pytest
from pytest_django import Settings

from tests.webhooks.management.conftest import Run

pytestmark = pytest.mark.django_db


def test_it_refuses_wakeups_that_it_cannot_hear(run: Run, settings: Settings) -> None:
    settings.WEBHOOKS_WAKEUP = "rq"

    ran = run("webhooks_worker")

    assert ran.code == 1
    assert "WEBHOOKS_WAKEUP=rq sends wake-ups to RQ, which this worker does not hear" in ran.err


@pytest.mark.parametrize(("wakeup", "command"), [("rq", "rqworker"), ("poll", "webhooks_worker")])
def test_commands_name_the_worker_that_the_setting_needs(
    wakeup: str, command: str, run: Run, settings: Settings
) -> None:
    settings.WEBHOOKS_WAKEUP = wakeup

    ran = run("doctor")

    assert f"manage.py {command}\n" in ran.out
