"""What workers do beside delivering: go on with redeliveries, send owed mails, purge daily, forget
stored answers.

Runs on a thread of its own, since a mail server or a large batch must not hold up the dispatcher.
Every worker does it; each task takes care that two at once do no harm.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from django.db import DatabaseError, InterfaceError, connection

from webhooks import notices, redelivery
from webhooks.retention import AnswerExpiry, DailyPurge

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0

_daily_purge = DailyPurge()
_answer_expiry = AnswerExpiry()


def keep_house() -> bool:
    """Do one round; returns whether more is to be done at once."""
    has_more = redelivery.advance_all()
    notices.send_due()
    has_more |= _answer_expiry.advance()
    return _daily_purge.advance() or has_more


class Housekeeper:
    """Does its tasks again and again on a daemon thread, until it is stopped.

    A task returns whether it has more to do at once.
    """

    def __init__(self, tasks: Sequence[Callable[[], bool | None]]) -> None:
        self._tasks = tasks
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
            has_more = [self._do(task) for task in self._tasks]
            pause = 0.0 if any(has_more) else PAUSE_SECONDS
        connection.close()

    def _do(self, task: Callable[[], bool | None]) -> bool:
        try:
            return bool(task())
        except (DatabaseError, InterfaceError) as problem:
            logger.warning("Housekeeping waits for Postgres: %s", problem)
            connection.close()
        except Exception:
            # One task that fails must not end all others for good.
            logger.exception("Housekeeping failed; trying again.")
        return False
