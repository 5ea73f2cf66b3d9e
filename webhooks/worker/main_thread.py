"""What every worker does with its main thread: run the dispatcher and its helpers, and end them.

A stop waits for the requests in flight, never for a server that is away: what could not be recorded is
found by other workers, as after a crash.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import connection

from webhooks.dispatch.engine import Engine
from webhooks.outbox import wakeup
from webhooks.postgres.sql import leave_pools
from webhooks.repair.housekeeping import Housekeeper, chores, tending, watching
from webhooks.worker import preflight, process
from webhooks.worker.pace_of_python import set_up_interpreter
from webhooks.worker.quarantine import Quarantine

logger = logging.getLogger(__name__)

SECOND_SIGNAL_SECONDS = 1.0
"""A pool and the terminal both pass Ctrl-C on; a second signal only counts after this time."""
STOP_STEP_SECONDS = 0.1
STOP_HELPERS_SECONDS = 1.0
UNRECORDED_SECONDS = 5.0
"""How long a stop waits for a Postgres that records nothing."""


def prepare() -> None:
    """Exit with the reasons where a worker could not keep its promises; else prepare the process."""
    if refusals := preflight.refusals():
        sys.exit("The worker does not start.\n" + "\n".join(refusals))
    # The dispatcher's threads have connections of their own.
    connection.close()
    leave_pools()
    set_up_interpreter()


class MainThread:
    """The dispatcher of a worker's process, until a stop.

    `on_stop` is called at the first signal, `on_hurry` at a second one, and `before_leaving` when the
    process has to end although the dispatcher has not, `leave_seconds` after it was told to.
    """

    def __init__(
        self,
        stopping: threading.Event,
        *,
        on_stop: Callable[[], None] = lambda: None,
        on_hurry: Callable[[], None] = lambda: None,
        before_leaving: Callable[[], None] = lambda: None,
        leave_seconds: float = STOP_HELPERS_SECONDS,
    ) -> None:
        self.engine = Engine()
        self.quarantine = Quarantine()
        self.must_leave = False
        """Whether threads of the dispatcher or of a job may never end by themselves."""
        self._stopping = stopping
        self._stopping_since: float | None = None
        self._on_stop = on_stop
        self._on_hurry = on_hurry
        self._before_leaving = before_leaving
        self._leave_seconds = leave_seconds

    def listen(self) -> None:
        """Hear Postgres's wake-ups, where WEBHOOKS_WAKEUP says so."""
        if settings.WEBHOOKS_WAKEUP == "listen":
            wakeup.listen(self.engine.hint)

    def run_with_helpers(self) -> None:
        """Dispatch until a stop, beside the chores and the care for suspects."""
        housekeeper = Housekeeper([tending(self.quarantine.tend), watching(), *chores()])
        housekeeper.start()
        self.run()
        housekeeper.stop(STOP_HELPERS_SECONDS)
        self.quarantine.stop(is_hurried=lambda: self.must_leave)

    def run(self, *, until_idle: bool = False) -> None:
        """Dispatch until a stop, or with `until_idle` until nothing is due or in flight."""
        ended = threading.Event()
        threading.Thread(
            target=self._watch_stop, args=(ended,), name="stop-watch", daemon=True
        ).start()
        try:
            self.engine.run(until_idle=until_idle)
        finally:
            ended.set()

    def stop(self) -> None:
        """Finish what is in flight, and begin nothing more."""
        self._on_stop()
        self._stopping.set()
        self.engine.stop()
        self.quarantine.begin_stop()

    def request_stop(self, signum: int, frame: Any) -> None:
        """First signal: finish what is in flight. A second one: stop now, lose nothing."""
        now = time.monotonic()
        if self._stopping_since is None:
            self._stopping_since = now
            self.stop()
        elif now - self._stopping_since >= SECOND_SIGNAL_SECONDS:
            self._on_hurry()
            self._abandon()

    def leave_if_needed(self) -> None:
        """End the process at once if threads may never end by themselves."""
        if self.must_leave:
            process.leave_at_once()

    def _watch_stop(self, ended: threading.Event) -> None:
        """Once stopping, leave what is in flight to be found dead if Postgres records nothing."""
        self._stopping.wait()
        recorded_at = time.monotonic()
        while time.monotonic() - recorded_at < UNRECORDED_SECONDS:
            if ended.wait(STOP_STEP_SECONDS):
                return
            if self.engine.is_recording:
                recorded_at = time.monotonic()
        logger.error("Postgres records nothing: other workers send again what is in flight here.")
        self._abandon()
        if not ended.wait(self._leave_seconds):
            # It waits for a statement that may never end.
            self._before_leaving()
            process.leave_at_once()

    def _abandon(self) -> None:
        self.must_leave = True
        self.engine.abandon()
