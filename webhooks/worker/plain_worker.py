"""The worker without RQ: the dispatcher in the main thread, woken by Postgres or by its own poll.

`manage.py webhooks_worker` runs it. It needs neither Valkey nor RQ's packages.
"""

import logging
import sys
import threading
import time
from typing import Any

from django.conf import settings
from django.db import connection

from webhooks.dispatch.engine import Engine, run_suspects
from webhooks.outbox import wakeup
from webhooks.repair.housekeeping import Housekeeper, chores, keep_house, tending, watching
from webhooks.worker import preflight, process
from webhooks.worker.pace_of_python import set_up_interpreter
from webhooks.worker.quarantine import Quarantine

logger = logging.getLogger(__name__)

SECOND_SIGNAL_SECONDS = 1.0
STOP_STEP_SECONDS = 0.1
STOP_HELPERS_SECONDS = 1.0
UNRECORDED_SECONDS = 5.0
"""How long a stop waits for a Postgres that records nothing."""


class PlainWorker:
    """Sends until a signal; a second signal leaves what is in flight to other workers."""

    def __init__(self) -> None:
        self._engine = Engine()
        self._quarantine = Quarantine()
        self._stopping = threading.Event()
        self._stopping_since: float | None = None
        self._must_leave = False

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, for the main thread only.

        Exits at once, with the reasons, where promises could not be kept (webhooks/worker/preflight.py).
        """
        refuse_if_unfit()
        process.handle_signals(self._request_stop)
        if settings.WEBHOOKS_WAKEUP == "listen":
            wakeup.listen(self._engine.hint)
        housekeeper = Housekeeper([tending(self._quarantine.tend), watching(), *chores()])
        housekeeper.start()
        ended = threading.Event()
        threading.Thread(
            target=self._watch_stop, args=(ended,), name="stop-watch", daemon=True
        ).start()
        try:
            self._engine.run(until_idle=False)
        finally:
            ended.set()
        housekeeper.stop(STOP_HELPERS_SECONDS)
        self._quarantine.stop(is_hurried=lambda: self._must_leave)
        if self._must_leave:
            process.leave_at_once()

    def _request_stop(self, signum: int, frame: Any) -> None:
        now = time.monotonic()
        if self._stopping_since is None:
            self._stopping_since = now
            self._stopping.set()
            self._engine.stop()
            self._quarantine.begin_stop()
        elif now - self._stopping_since >= SECOND_SIGNAL_SECONDS:
            self._abandon()

    def _watch_stop(self, ended: threading.Event) -> None:
        """Once stopping, leave what is in flight to be found dead if Postgres records nothing."""
        self._stopping.wait()
        recorded_at = time.monotonic()
        while time.monotonic() - recorded_at < UNRECORDED_SECONDS:
            if ended.wait(STOP_STEP_SECONDS):
                return
            if self._engine.is_recording:
                recorded_at = time.monotonic()
        logger.error("Postgres records nothing: other workers send again what is in flight here.")
        self._abandon()
        if not ended.wait(STOP_HELPERS_SECONDS):
            # It waits for a statement that may never end.
            process.leave_at_once()

    def _abandon(self) -> None:
        self._must_leave = True
        self._engine.abandon()


def run_until_idle() -> None:
    """Send what is due, with its chores and suspects, and return."""
    refuse_if_unfit()
    keep_house()
    Engine().run(until_idle=True)
    run_suspects()


def refuse_if_unfit() -> None:
    """Exit with the reasons where a worker could not keep its promises; else prepare the process."""
    if refusals := preflight.refusals():
        sys.exit("The worker does not start.\n" + "\n".join(refusals))
    # The dispatcher's threads have connections of their own.
    connection.close()
    set_up_interpreter()
