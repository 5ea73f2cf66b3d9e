"""What workers do beside delivering: go on with redeliveries, purge daily, forget stored answers.

Runs on threads of its own, since a mail server or a large batch must not hold up the dispatcher.
Every worker does it; each task takes care that two at once do no harm.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from django.db import DatabaseError, InterfaceError, connection

from webhooks import redelivery
from webhooks.retention import AnswerExpiry, DailyPurge

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0

Task = Callable[[], bool | None]

_daily_purge = DailyPurge()
_answer_expiry = AnswerExpiry()


def keep_house() -> bool:
    """Do one round; returns whether more is to be done at once."""
    has_more = redelivery.advance_all()
    has_more |= _answer_expiry.advance()
    return _daily_purge.advance() or has_more


class Housekeeper:
    """Does its tasks again and again, each on a daemon thread of its own, until it is stopped.

    A task returns whether it has more to do at once.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(task,), name="housekeeping", daemon=True)
            for task in tasks
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Begin nothing more, and wait for what is under way, no longer than the timeout in all."""
        self._stopping.set()
        ends_at = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, ends_at - time.monotonic()))

    def _repeat(self, task: Task) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            pause = 0.0 if self._do(task) else PAUSE_SECONDS
        connection.close()

    def _do(self, task: Task) -> bool:
        try:
            return bool(task())
        except (DatabaseError, InterfaceError) as problem:
            logger.warning("Housekeeping waits for Postgres: %s", problem)
            connection.close()
        except Exception:
            # One failure must not end it for good.
            logger.exception("Housekeeping failed; trying again.")
        return False
