"""Deliveries that end the process that sends them: an app that is installed for tests only.

Its settings (tests/chaos/poison_settings.py) hold in a worker and in what it starts. The path of the
webhook's URL says what the delivery does.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig

LATER_SECONDS = 2.0
HANGING_SECONDS = 30.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_later() -> None:
    """With a request in flight, while others come and go."""
    threading.Timer(LATER_SECONDS, die).start()


def hang_and_die() -> None:
    """The loop stands still, and no beat goes out."""
    time.sleep(HANGING_SECONDS)
    die()


def fail() -> None:
    """As a fault in our own code would."""
    raise RuntimeError("a fault that one delivery causes")


POISONS: dict[str, Callable[[], None]] = {
    "/now": die, "/later": die_later, "/hang": hang_and_die, "/fail": fail,
}  # fmt: skip


class Poison(AppConfig):
    name = "tests.chaos"
    label = "poison"

    def ready(self) -> None:
        from webhooks.wire.many import MultiSender

        start = MultiSender.start

        def start_or_die(sender: MultiSender, request: Any, **options: Any) -> None:
            POISONS.get(urlsplit(request.url).path, lambda: None)()
            start(sender, request, **options)

        MultiSender.start = start_or_die  # type: ignore[assignment]
