"""The common part of the commands `rqworker` and `rqworker-pool`."""

import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from webhooks.postgres.sql import leave_pools
from webhooks.worker import process


class RunsWorkers(BaseCommand):
    """A mixin for django-rq's commands that adds our default queue and the duties of process 1."""

    def handle(self, *queues: str, **options: Any) -> None:
        leave_pools()
        process.split_from_init()
        process.handle_signals(_terminate)
        super().handle(*(queues or [settings.WEBHOOKS_QUEUE]), **options)


def _terminate(number: int, frame: Any) -> None:
    """Exit on stop signals until the worker installs its own handlers.

    A pool installs none for SIGHUP and SIGQUIT; raise SIGTERM for these.
    """
    if number not in (signal.SIGHUP, signal.SIGQUIT):
        raise SystemExit(128 + number)
    signal.raise_signal(signal.SIGTERM)
