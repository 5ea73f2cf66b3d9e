"""The worker that `manage.py rqworker` runs: our dispatcher in the main thread, RQ in another.

RQ's loop waits on Valkey, so it lives on a thread of its own; there a wake-up job only pokes the
dispatcher and every other job runs as usual. With Valkey gone the thread keeps trying to come back
while the dispatcher goes on with Postgres alone (invariants 2 and 3).
"""

import gc
import logging
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from django.db import close_old_connections, connection
from redis import Redis, UnixDomainSocketConnection
from redis.exceptions import RedisError
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from rq.worker import SimpleWorker

from webhooks import notices, startup, wakeup
from webhooks.dispatch.engine import Engine, run_suspects
from webhooks.housekeeping import Housekeeper, keep_house
from webhooks.quarantine import Quarantine

logger = logging.getLogger(__name__)

WORKER_TTL_SECONDS = 30
"""RQ waits half of this for a job, so that a lost connection is noticed within as much."""
RECONNECT_SECONDS = 2.0
SECOND_SIGNAL_SECONDS = 1.0
"""A pool and the terminal both pass Ctrl-C on; a second signal only counts after this time."""
STOP_RQ_SECONDS = 1.0
GARBAGE_THRESHOLD = 50_000
"""New objects between two collections; Python's default is 700."""
SWITCH_SECONDS = 0.0005
"""How long a thread may keep the others from the interpreter; Python's default is ten times as
much, which a claim would wait for several times over while requests go out."""


class WebhookWorker(SimpleWorker):
    """A SimpleWorker whose own loop is the dispatcher."""

    # Jobs run on a thread, where SIGALRM cannot reach them. It must not reach the dispatcher
    # either: raised inside a libcurl callback it would be swallowed and look like a failure.
    death_penalty_class = TimerDeathPenalty
    max_connection_wait_time = RECONNECT_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The command line's default is pickle: whoever can write to Valkey could run code.
        kwargs["serializer"] = JSONSerializer
        kwargs["worker_ttl"] = min(
            kwargs.get("worker_ttl") or WORKER_TTL_SECONDS, WORKER_TTL_SECONDS
        )
        super().__init__(*args, **kwargs)
        self.queue_class = self._listening_queue_class(self.queue_class)
        self.log.addFilter(_is_worth_a_line)
        # Made in work(): sockets and threads do not survive the fork of a worker pool.
        self._engine: Engine
        self._stopping_since: float | None = None

    def _listening_queue_class(self, queue_class: type[Queue]) -> type[Queue]:
        """Return RQ's queue as a class that pokes the dispatcher as soon as anything is popped.

        Between that and the execution of the job lie four exchanges with Valkey.
        """
        worker = self

        class ListeningQueue(queue_class):  # type: ignore[valid-type, misc]
            @classmethod
            def lmove(cls, *args: Any) -> Any:
                popped = super().lmove(*args)
                if popped is not None:
                    worker._engine.hint()
                return popped

        return ListeningQueue

    def _set_connection(self, connection: Redis) -> Redis:
        connection = super()._set_connection(connection)
        pool = connection.connection_pool
        if not issubclass(pool.connection_class, UnixDomainSocketConnection):
            pool.connection_kwargs.setdefault("socket_connect_timeout", RECONNECT_SECONDS)
        return connection

    def _set_ip_address(self, connection: Redis) -> None:
        """Not asked for: a worker starts without Valkey, too."""
        self.ip_address = "unknown"

    def work(  # type: ignore[override]
        self, burst: bool = False, with_scheduler: bool = False, **options: Any
    ) -> bool:
        """Run until a signal; with `burst` until the queue is empty and nothing is due.

        Exits at once, with the reasons, where promises could not be kept (webhooks/startup.py).
        `with_scheduler` is ignored: retries live in Postgres, and RQ's scheduler forks, which a
        process with threads must not do.
        """
        if refusals := startup.refusals():
            sys.exit("The worker does not start.\n" + "\n".join(refusals))
        # The dispatcher's threads have connections of their own.
        connection.close()
        _spare_the_collector()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._engine = Engine()
        super()._install_signal_handlers()
        thread = threading.Thread(
            target=self._serve_rq, args=(burst, options), name="rq", daemon=True
        )
        thread.start()
        if burst:
            thread.join()
            keep_house()
            notices.send_due()
            self._engine.run(until_idle=True)
            run_suspects()
        else:
            self._run_with_helpers()
        self._stop_requested = True
        # It may be waiting for a job; the connection's death ends that, and so does this process.
        thread.join(STOP_RQ_SECONDS)
        with suppress(RedisError):
            self.register_death()
        return True

    def _run_with_helpers(self) -> None:
        quarantine = Quarantine()
        # Apart: suspects must not wait for a mail server, nor for a purge.
        housekeeper = Housekeeper([quarantine.tend, keep_house, notices.send_due])
        housekeeper.start()
        self._engine.run()
        housekeeper.stop(STOP_RQ_SECONDS)
        quarantine.stop()

    def _serve_rq(self, burst: bool, options: dict[str, Any]) -> None:
        while True:
            try:
                super().work(burst=burst, **options)
            except (RedisError, ValueError) as problem:
                # A ValueError: while Valkey refuses to write our own entry stays (see below).
                logger.warning("Valkey does not answer (%s); going on without.", problem)
            if self._stop_requested or burst:
                return
            if options.get("max_jobs") or options.get("max_idle_time"):
                # RQ ended because its limit was reached, and so does the dispatcher.
                self._engine.stop()
                return
            time.sleep(RECONNECT_SECONDS)
            # Our entry may have outlived the outage; RQ would take it for another worker's.
            with suppress(RedisError):
                self.connection.delete(self.key)

    def _install_signal_handlers(self) -> None:
        """Nothing: RQ's loop runs outside the main thread, where Python allows no handlers."""

    def request_stop(self, signum: int, frame: Any) -> None:
        """First signal: finish what is in flight. A second one: stop now, lose nothing."""
        now = time.monotonic()
        if self._stopping_since is None:
            self._stopping_since = now
            self._stop_requested = True
            self._engine.stop()
        elif now - self._stopping_since >= SECOND_SIGNAL_SECONDS:
            self._engine.abandon()

    def execute_job(self, job: Job, queue: Queue) -> None:
        if not _is_wakeup(job):
            super().execute_job(job, queue)
            return
        # From several queues RQ pops with another command, which is not listened to.
        self._engine.hint()
        # The hint is all there is to it; no registries, no result, no log line.
        queue.intermediate_queue.remove(job.id)
        job.delete(remove_from_queue=False)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        # RQ knows nothing of Django's connections; a stale one would fail the job.
        close_old_connections()
        try:
            return super().perform_job(job, queue, execution)
        finally:
            close_old_connections()

    def teardown(self) -> None:
        """RQ ends its loop here; with Valkey gone its goodbye fails, which changes nothing."""
        try:
            super().teardown()
        except RedisError as problem:
            logger.warning("Valkey does not answer (%s).", problem)
            with suppress(RedisError):
                self.unsubscribe()


def _spare_the_collector() -> None:
    """Keep the garbage collector from walking all of Django again and again.

    A delivery makes a few dozen short-lived objects and no cycles; with the default thresholds the
    collector takes a tenth of the worker's time and finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


def _is_wakeup(job: Job) -> bool:
    try:
        return bool(job.func_name == wakeup.JOB_FUNCTION)
    except DeserializationError:
        # Not JSON: RQ fails such a job by itself.
        return False


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Wake-ups come many times a second; RQ's line about each one says nothing."""
    return wakeup.JOB_DESCRIPTION not in record.getMessage()
