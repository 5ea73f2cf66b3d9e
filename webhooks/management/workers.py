"""What our two commands that run workers have in common."""

import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from webhooks.worker import process


class RunsWorkers(BaseCommand):
    """Mixed into django-rq's commands: our queue by default, and process 1 where it has to be."""

    def handle(self, *queues: str, **options: Any) -> None:
        process.split_from_init()
        process.handle_signals(_end_as_if_terminated)
        super().handle(*(queues or [settings.WEBHOOKS_QUEUE]), **options)


def _end_as_if_terminated(number: int, frame: Any) -> None:
    """Until the worker has handlers of its own; a pool never has any for SIGHUP and SIGQUIT."""
    if number not in (signal.SIGHUP, signal.SIGQUIT):
        raise SystemExit(128 + number)
    signal.raise_signal(signal.SIGTERM)
