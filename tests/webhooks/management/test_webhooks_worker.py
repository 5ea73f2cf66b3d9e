"""`manage.py webhooks_worker`; as a process that runs on: tests/host_project."""

from typing import Any

import pytest
from django.core.management import BaseCommand, call_command
from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper
from pytest_django import Settings

from tests.webhooks.management.conftest import Run
from webhooks.worker import process

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


class OpenPool:
    """One of Django's pools of connections, opened by the system checks."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("command", ["rqworker", "rqworker-pool", "webhooks_worker"])
def test_workers_leave_django_s_pool_before_they_fork(
    command: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork would share its sockets."""
    settings.WEBHOOKS_WAKEUP = "rq" if command.startswith("rq") else "poll"
    monkeypatch.setattr(BaseCommand, "check_migrations", lambda _: None)
    pool = OpenPool()
    connection.close()
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "pool", True)
    pools: dict[str, Any] = DatabaseWrapper._connection_pools  # type: ignore[attr-defined]
    monkeypatch.setitem(pools, connection.alias, pool)

    def fork() -> None:
        assert pool.is_closed
        assert "pool" not in connection.settings_dict["OPTIONS"]
        raise SystemExit(0)

    monkeypatch.setattr(process, "split_from_init", fork)
    with pytest.raises(SystemExit):
        call_command(command)
    assert connection.alias not in pools
