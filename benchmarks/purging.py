"""Purge until told to stop, as `manage.py purge` does; prints rows per second and the longest batch."""

import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import django


def main() -> None:
    django.setup()
    from django.db import connection

    from webhooks.repair.retention import Policy, purge

    longest = 0.0

    def time_it(execute: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal longest
        started_at = time.monotonic()
        try:
            return execute(*arguments)
        finally:
            longest = max(longest, time.monotonic() - started_at)

    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    deliveries = 0
    started_at = time.monotonic()
    with connection.execute_wrapper(time_it):
        for step in purge(Policy(datetime.now(UTC) - timedelta(days=30))):
            deliveries += step.deliveries
            if stopped:
                break
    print(deliveries / (time.monotonic() - started_at), longest * 1000)


if __name__ == "__main__":
    main()
