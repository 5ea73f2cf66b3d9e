"""The worker that `manage.py rqworker` runs: our dispatcher in the main thread, RQ in another.

RQ's loop waits on Valkey, so it lives on a thread of its own; there a wake-up only pokes the
dispatcher and every job of ours runs as usual. With Valkey gone the thread keeps trying to come back
while the dispatcher goes on with Postgres alone (invariants 2 and 3).

A stop waits for the requests in flight and for RQ's job in progress, never for a server that is
away: what could not be recorded is found by other workers, as after a crash.
"""

import logging
import multiprocessing
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.db import connection
from redis.exceptions import RedisError

from webhooks.dispatch.engine import Engine, run_suspects
from webhooks.outbox import wakeup
from webhooks.repair.housekeeping import Housekeeper, chores, keep_house, tending, watching
from webhooks.worker import preflight, process
from webhooks.worker.pace_of_python import set_up_interpreter
from webhooks.worker.popper import Popper
from webhooks.worker.quarantine import Quarantine
from webhooks.worker.sorting import SortingWorker

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 2.0
SECOND_SIGNAL_SECONDS = 1.0
"""A pool and the terminal both pass Ctrl-C on; a second signal only counts after this time."""
STOP_STEP_SECONDS = 0.1
STOP_HELPERS_SECONDS = 1.0
STOP_RQ_SECONDS = 2.0
"""How long a stop waits for RQ's loop while no job is in progress."""
UNRECORDED_SECONDS = 5.0
"""How long a stop waits for a Postgres that records nothing."""


class WebhookWorker(SortingWorker):
    """An RQ worker whose own loop is the dispatcher."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Made in work(): sockets and threads do not survive the fork of a worker pool.
        self._engine: Engine
        self._quarantine: Quarantine
        self._stopping_since: float | None = None
        # By a second signal: RQ's job in progress is given up.
        self._is_hurried = False
        # Threads of the dispatcher or of a job may never end by themselves.
        self._must_leave = False

    @property
    def is_busy(self) -> bool:
        return not self._engine.is_waiting

    def hear_wakeup(self) -> None:
        self._engine.hint()

    def _hear_in_loop(self) -> None:
        self._has_woken = True
        self._engine.notice()

    def work(  # type: ignore[override]
        self, burst: bool = False, with_scheduler: bool = False, **options: Any
    ) -> bool:
        """Run until a signal; with `burst` until the queue is empty and nothing is due.

        Exits at once, with the reasons, where promises could not be kept (webhooks/worker/preflight.py).
        `with_scheduler` is ignored: retries live in Postgres, and RQ's scheduler forks, which a
        process with threads must not do.
        """
        if refusals := preflight.refusals():
            sys.exit("The worker does not start.\n" + "\n".join(refusals))
        # The dispatcher's threads have connections of their own.
        connection.close()
        set_up_interpreter()
        self._engine = Engine()
        if not burst:
            self.popper = Popper(
                self._engine.guests,
                self._hear_in_loop,
                is_busy=lambda: self.is_busy,
                is_stopping=lambda: self._stop_requested,
            )
            self._engine.guests.invite(self.popper)
        self._quarantine = Quarantine()
        process.handle_signals(self.request_stop)
        if pool := multiprocessing.parent_process():
            process.stop_with_parent(pool.pid or 0)
        rq = threading.Thread(target=self._serve_rq, args=(burst, options), name="rq", daemon=True)
        rq.start()
        if settings.WEBHOOKS_WAKEUP == "listen":
            wakeup.listen(self._engine.hint)
        if burst:
            self._run_burst(rq)
        else:
            self._run_with_helpers(rq)
        self._stop_requested = True
        self._wait_for_rq(rq)
        if self._must_leave:
            process.leave_at_once()
        return True

    def _run_burst(self, rq: threading.Thread) -> None:
        while rq.is_alive() and not self._stop_requested:
            rq.join(STOP_STEP_SECONDS)
        if not self._stop_requested:
            keep_house()
            self._dispatch(rq, until_idle=True)
        if not self._stop_requested:
            run_suspects()

    def _run_with_helpers(self, rq: threading.Thread) -> None:
        housekeeper = Housekeeper([tending(self._quarantine.tend), watching(), *chores()])
        housekeeper.start()
        self._dispatch(rq)
        housekeeper.stop(STOP_HELPERS_SECONDS)
        self._quarantine.stop(is_hurried=lambda: self._must_leave)

    def _dispatch(self, rq: threading.Thread, *, until_idle: bool = False) -> None:
        ended = threading.Event()
        threading.Thread(
            target=self._watch_stop, args=(rq, ended), name="stop-watch", daemon=True
        ).start()
        try:
            self._engine.run(until_idle=until_idle)
        finally:
            ended.set()

    def _watch_stop(self, rq: threading.Thread, ended: threading.Event) -> None:
        """Once stopping, leave what is in flight to be found dead if Postgres records nothing."""
        self._stopping.wait()
        recorded_at = time.monotonic()
        while time.monotonic() - recorded_at < UNRECORDED_SECONDS:
            if ended.wait(STOP_STEP_SECONDS):
                return
            if self._engine.is_recording:
                recorded_at = time.monotonic()
        logger.error("Postgres records nothing: other workers send again what is in flight here.")
        self._abandon_dispatcher()
        if not ended.wait(STOP_RQ_SECONDS):
            # It waits for a statement that may never end.
            self._wait_for_rq(rq)
            process.leave_at_once()

    def _abandon_dispatcher(self) -> None:
        self._must_leave = True
        self._engine.abandon()

    def _wait_for_rq(self, rq: threading.Thread) -> None:
        """Wait for the job in progress, at most for as long as it may take, and end RQ's loop."""
        threading.Thread(target=self._stop_rq_waiting, args=(rq,), daemon=True).start()
        ends_at = time.monotonic() + STOP_RQ_SECONDS
        while rq.is_alive() and time.monotonic() < ends_at:
            rq.join(STOP_STEP_SECONDS)
            job = self.job_in_progress
            if job is None:
                continue
            ends_at = time.monotonic() + STOP_RQ_SECONDS
            if self._is_hurried or time.monotonic() > job.overdue_at:
                self._must_leave = True
                self.give_up_job("Its worker was stopped before the job had ended.")
                return

    def _stop_rq_waiting(self, rq: threading.Thread) -> None:
        # Again and again: it may be just about to wait.
        while rq.is_alive():
            self.stop_waiting()
            rq.join(STOP_STEP_SECONDS)

    def _serve_rq(self, burst: bool, options: dict[str, Any]) -> None:
        self._is_burst = burst
        while True:
            try:
                super().work(burst=burst, **options)
            except (RedisError, ValueError) as problem:
                # A ValueError: while Valkey refuses to write our own entry stays (see below).
                logger.warning("Valkey does not answer (%s); going on without.", problem)
            except Exception:
                # The dispatcher would go on without wake-ups and jobs, and nobody would know why.
                logger.exception("RQ failed; starting it again.")
            if self._stop_requested or burst:
                return
            if options.get("max_jobs") or options.get("max_idle_time"):
                # RQ ended because its limit was reached, and so does the dispatcher.
                self._stop()
                return
            self._stopping.wait(RECONNECT_SECONDS)
            # Our entry may have outlived the outage; RQ would take it for another worker's.
            with suppress(RedisError):
                self.connection.delete(self.key)

    def _stop(self) -> None:
        self._stop_requested = True
        self._stopping.set()
        self._engine.stop()
        self._quarantine.begin_stop()

    def request_stop(self, signum: int, frame: Any) -> None:
        """First signal: finish what is in flight. A second one: stop now, lose nothing."""
        now = time.monotonic()
        if self._stopping_since is None:
            self._stopping_since = now
            self._stop()
        elif now - self._stopping_since >= SECOND_SIGNAL_SECONDS:
            self._is_hurried = True
            self._abandon_dispatcher()
