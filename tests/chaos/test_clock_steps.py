"""Postgres' clock is set back by half a minute while a worker delivers: nothing new waits for it."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from projects.models import User
from tests import clusters
from tests.chaos.clock import Clock, build_library
from tests.chaos.postgres import Postgres
from tests.webhooks.history import trigger
from tests.workers import running_worker, wait_for_heartbeats
from webhooks.models import Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

STEP_SECONDS = -30
LONGEST_SECONDS = 10.0
QUICK, SLOW = Behaviour(), Behaviour(delay_seconds=0.3)
"""From a slow one ordered deliveries wait when the clock is set."""


@contextmanager
def database_with_a_clock() -> Iterator[Clock]:
    """Move to a cluster with a clock of its own, which holds what the tests' database holds."""
    with clusters.dump() as file, clusters.folder() as folder:
        folder.chmod(0o711)
        library = build_library(folder)
        if library is None:
            pytest.skip("There is no C compiler: the clock of Postgres cannot be set.")
        clock = Clock(library, folder / "clock")
        public = folder / "public"
        public.mkdir()
        postgres = Postgres(folder, public, clock.environment)
        postgres.start_first()
        try:
            cluster = clusters.Cluster(postgres.home)
            clusters.restore(file, cluster, "stepped")
            with clusters.connected_to(cluster, "stepped"):
                yield clock
        finally:
            postgres.close()
            postgres.stop(signal.SIGQUIT)


@pytest.mark.parametrize(
    ("settings", "behaviour"),
    [
        pytest.param({}, QUICK, id="plain"),
        pytest.param({"ordered": True}, QUICK, id="ordered"),
        pytest.param({"ordered": True}, SLOW, id="ordered and behind"),
        pytest.param({"rate_limit": 20}, QUICK, id="rate limit"),
    ],
)
def test_clock_of_postgres_that_steps_back_delays_nothing_new(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    settings: dict[str, Any],
    behaviour: Behaviour,
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"], **settings)
    receiver.behaviour = behaviour
    stored_at: dict[str, float] = {}

    def produce(seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            (event,) = trigger(user)
            stored_at[event.public_id] = time.time()
            time.sleep(0.1)

    with database_with_a_clock() as clock, running_worker():
        wait_for_heartbeats(1)
        produce(2)
        receiver.wait_for(1)
        clock.set(STEP_SECONDS)
        produce(2)
        requests = receiver.wait_for(len(stored_at), timeout_seconds=90)

    waited = [request.received_at - stored_at[request.event_id] for request in requests]
    assert max(waited) < LONGEST_SECONDS
