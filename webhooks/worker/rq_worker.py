"""The worker that `manage.py rqworker` runs: our dispatcher in the main thread, RQ in another.

RQ's loop waits on Valkey, so it lives on a thread of its own; there a wake-up only pokes the
dispatcher and every job of ours runs as usual. With Valkey gone the thread keeps trying to come back
while the dispatcher goes on with Postgres alone (invariants 2 and 3).

A stop waits for the requests in flight and for RQ's job in progress, never for a server that is
away: what could not be recorded is found by other workers, as after a crash.
"""

import logging
import multiprocessing
import threading
import time
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from webhooks.dispatch.engine import run_suspects
from webhooks.repair.housekeeping import keep_house
from webhooks.worker import process
from webhooks.worker.main_thread import STOP_STEP_SECONDS, MainThread, prepare
from webhooks.worker.popper import Popper
from webhooks.worker.sorting import SortingWorker

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 2.0
STOP_RQ_SECONDS = 2.0
"""How long a stop waits for RQ's loop while no job is in progress."""


class WebhookWorker(SortingWorker):
    """An RQ worker whose own loop is the dispatcher."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Made in work(): sockets and threads do not survive the fork of a worker pool.
        self._main: MainThread
        # By a second signal: RQ's job in progress is given up.
        self._is_hurried = False

    @property
    def is_busy(self) -> bool:
        return not self._main.engine.is_waiting

    def hear_wakeup(self) -> None:
        self._main.engine.hint()

    def _hear_in_loop(self) -> None:
        self._has_woken = True
        self._main.engine.notice()

    def work(  # type: ignore[override]
        self, burst: bool = False, with_scheduler: bool = False, **options: Any
    ) -> bool:
        """Run until a signal; with `burst` until the queue is empty and nothing is due.

        Exits at once, with the reasons, where promises could not be kept (webhooks/worker/preflight.py).
        `with_scheduler` is ignored: retries live in Postgres, and RQ's scheduler forks, which a
        process with threads must not do.
        """
        prepare()
        rq = threading.Thread(target=self._serve_rq, args=(burst, options), name="rq", daemon=True)
        self._main = MainThread(
            self._stopping,
            on_stop=self._note_stop,
            on_hurry=self._note_hurry,
            before_leaving=lambda: self._wait_for_rq(rq),
            leave_seconds=STOP_RQ_SECONDS,
        )
        engine = self._main.engine
        if not burst:
            self.popper = Popper(
                engine.guests,
                self._hear_in_loop,
                is_busy=lambda: self.is_busy,
                is_stopping=lambda: self._stop_requested,
            )
            engine.guests.invite(self.popper)
        process.handle_signals(self.request_stop)
        if pool := multiprocessing.parent_process():
            process.stop_with_parent(pool.pid or 0)
        rq.start()
        self._main.listen()
        if burst:
            self._run_burst(rq)
        else:
            self._main.run_with_helpers()
        self._stop_requested = True
        self._wait_for_rq(rq)
        self._main.leave_if_needed()
        return True

    def _run_burst(self, rq: threading.Thread) -> None:
        while rq.is_alive() and not self._stop_requested:
            rq.join(STOP_STEP_SECONDS)
        if not self._stop_requested:
            keep_house()
            self._main.run(until_idle=True)
        if not self._stop_requested:
            run_suspects()

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
                self._main.must_leave = True
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
                self._main.stop()
                return
            self._stopping.wait(RECONNECT_SECONDS)
            # Our entry may have outlived the outage; RQ would take it for another worker's.
            with suppress(RedisError):
                self.connection.delete(self.key)

    def _note_stop(self) -> None:
        self._stop_requested = True

    def _note_hurry(self) -> None:
        self._is_hurried = True

    def request_stop(self, signum: int, frame: Any) -> None:
        """First signal: finish what is in flight. A second one: stop now, lose nothing."""
        self._main.request_stop(signum, frame)
