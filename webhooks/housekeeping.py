"""What workers do beside delivering: go on with redeliveries, purge daily, forget stored answers.

Runs on threads of its own, since a mail server or a large batch must not hold up the dispatcher.
Every worker does it; each task takes care that two at once do no harm.
"""

import logging
import threading
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError, connection

from webhooks import redelivery
from webhooks.retention import AnswerExpiry, DailyPurge

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0

_daily_purge = DailyPurge()
_answer_expiry = AnswerExpiry()


def keep_house() -> bool:
    """Do one round; returns whether more is to be done at once."""
    has_more = redelivery.advance_all()
    has_more |= _answer_expiry.advance()
    return _daily_purge.advance() or has_more


class Housekeeper:
    """Does its task again and again on a daemon thread, until it is stopped.

    The task returns whether it has more to do at once.
    """

    def __init__(self, task: Callable[[], bool | None]) -> None:
        self._task = task
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            pause = 0.0 if self._do_task() else PAUSE_SECONDS
        connection.close()

    def _do_task(self) -> bool:
        try:
            return bool(self._task())
        except (DatabaseError, InterfaceError) as problem:
            logger.warning("Housekeeping waits for Postgres: %s", problem)
            connection.close()
        except Exception:
            # One failure must not end it for good.
            logger.exception("Housekeeping failed; trying again.")
        return False
