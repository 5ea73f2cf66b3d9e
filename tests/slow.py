"""Which tests `make test` leaves to `make test-slow`.

They start, kill and freeze processes and servers, or try every field of the API. `.ci/run` runs some
of them, GitHub's workflow all.
"""

from pathlib import Path

import pytest

SLOW = (
    "cells/test_belongings.py",
    "cells/test_doors.py",
    "cells/test_jetstream.py",
    "cells/test_moving.py",
    "cells/test_pipeline.py",
    "chaos",
    "config/test_embedded.py",
    "config/test_serve.py",
    "hostile/test_costly_bodies.py",
    "hostile/test_deactivated.py",
    "hostile/test_receivers.py",
    "hosts/",
    "sessions_app/test_demo_history.py",
    "webhooks/api/test_foreign_settings.py",
    "webhooks/dispatch/test_crashes.py",
    "webhooks/dispatch/test_errands_that_fail.py",
    "webhooks/dispatch/test_one_tenant.py",
    "webhooks/dispatch/test_ordered_by_two.py",
    "webhooks/figures/test_rollups.py",
    "webhooks/management/test_failover.py",
    "webhooks/management/test_listen.py",
    "webhooks/management/test_migrate.py",
    "webhooks/management/test_receiver.py",
    "webhooks/management/test_terminal.py",
    "webhooks/outbox/test_sentinel.py",
    "webhooks/outbox/test_wakeups.py",
    "webhooks/postgres/test_epochs.py",
    "webhooks/postgres/test_faults.py",
    "webhooks/postgres/test_pooler.py",
    "webhooks/tracking/test_deletes.py",
    "webhooks/worker/test_many_workers.py",
    "webhooks/worker/test_process.py",
    "webhooks/worker/test_product_jobs.py",
    "webhooks/test_traces_of_processes.py",
    "webhooks/worker/test_rq_worker.py",
    "webhooks/workbench/test_snippets.py",
)
ROOT = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        if path.startswith(SLOW):
            item.add_marker("slow")
