"""`manage.py webhooks_alive`, a liveness probe: only what a restart would help makes it fail."""

import pytest

from tests.webhooks.management.conftest import Run, run_without_postgres
from webhooks.models import WorkerHeartbeat


def test_postgres_that_is_away_is_no_reason_to_restart() -> None:
    ran = run_without_postgres("webhooks_alive")

    assert (ran.returncode, ran.stdout, ran.stderr) == (
        0,
        "",
        "Postgres is unavailable; workers wait for it and need no restart.\n",
    )


@pytest.mark.django_db
def test_worker_of_this_host_is_looked_for(run: Run) -> None:
    WorkerHeartbeat.objects.create(host="a", pid=1)

    here, elsewhere = run("webhooks_alive", "--host", "a"), run("webhooks_alive", "--host", "b")

    assert (here.code, here.out) == (0, "Workers alive on a: 1.\n")
    assert (elsewhere.code, elsewhere.err) == (
        1,
        "No worker on b has sent a heartbeat within ten seconds.\n",
    )
