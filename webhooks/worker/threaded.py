"""RQ's worker on a thread of ours: without signals, with an end to each wait and each job."""

import logging
import math
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

from django.db import close_old_connections
from redis import Redis, UnixDomainSocketConnection
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.registry import BaseRegistry
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from rq.utils import now
from rq.worker import SimpleWorker

from webhooks.worker.popper import Popper

logger = logging.getLogger(__name__)

WORKER_TTL_SECONDS = 30
"""RQ waits half of this for a job, so that a lost connection is noticed within as much."""
CONNECT_SECONDS = 2.0
OVERDUE_SECONDS = 5.0
"""A job that outlives its own limit by this hangs where RQ's exception cannot reach it."""
GIVE_UP_SECONDS = 2.0
"""How long a Valkey that does not answer may keep a worker that gives its job up."""


class JobInProgress(NamedTuple):
    job: Job
    queue: Queue
    execution: Execution
    overdue_at: float


class ThreadedWorker(SimpleWorker):
    """A SimpleWorker whose loop runs on a thread beside another one's."""

    # Jobs run on a thread, where SIGALRM cannot reach them. It must not reach the dispatcher
    # either: raised inside a libcurl callback it would be swallowed and look like a failure.
    death_penalty_class = TimerDeathPenalty
    max_connection_wait_time = CONNECT_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The command line's default is pickle: whoever can write to Valkey could run code.
        kwargs["serializer"] = JSONSerializer
        kwargs["worker_ttl"] = min(
            kwargs.get("worker_ttl") or WORKER_TTL_SECONDS, WORKER_TTL_SECONDS
        )
        super().__init__(*args, **kwargs)
        self.job_in_progress: JobInProgress | None = None
        # Held while the end of a job is written down, and for good by whoever gave the job up.
        self._ending = threading.Lock()
        self.popper: Popper | None = None
        self._client_id: int | None = None

    def _set_connection(self, connection: Redis) -> Redis:
        connection = super()._set_connection(connection)
        pool = connection.connection_pool
        if not issubclass(pool.connection_class, UnixDomainSocketConnection):
            pool.connection_kwargs.setdefault("socket_connect_timeout", CONNECT_SECONDS)
        return connection

    def _set_ip_address(self, connection: Redis) -> None:
        """Not asked for: a worker starts without Valkey, too."""
        self.ip_address = "unknown"

    def _install_signal_handlers(self) -> None:
        """None: RQ's loop runs outside the main thread, where Python allows no handlers."""
        # Maintenance limits callbacks of abandoned jobs by SIGALRM, too, and cannot be told otherwise.
        BaseRegistry.death_penalty_class = TimerDeathPenalty  # type: ignore[assignment]

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """As RQ does before it waits for a job; remembers the connection on which it will."""
        super().heartbeat(timeout, pipeline)
        if pipeline is None and (self.popper is None or self.popper.client_id is None):
            with suppress(ResponseError):  # not allowed to this user: stop_waiting() has no effect
                self._client_id = self.connection.client_id()

    def stop_waiting(self) -> None:
        """Have a pop that waits for a job return without one; no job is lost on the way."""
        client_id = (self.popper and self.popper.client_id) or self._client_id
        if client_id is not None:
            with suppress(RedisError):
                self.connection.client_unblock(client_id)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        limit = job.timeout or self.queue_class.DEFAULT_TIMEOUT
        overdue_at = time.monotonic() + limit + OVERDUE_SECONDS if limit > 0 else math.inf
        self.job_in_progress = JobInProgress(job, queue, execution, overdue_at)
        # RQ knows nothing of Django's connections; a stale one would fail the job.
        close_old_connections()
        try:
            return super().perform_job(job, queue, execution)
        finally:
            self.job_in_progress = None
            close_old_connections()

    def _finalize_success(self, *args: Any, **kwargs: Any) -> None:
        with self._ending:
            super()._finalize_success(*args, **kwargs)
            self.job_in_progress = None

    def _finalize_failure(self, *args: Any, **kwargs: Any) -> None:
        with self._ending:
            super()._finalize_failure(*args, **kwargs)
            self.job_in_progress = None

    def give_up_job(self, reason: str) -> None:
        """Write down that the job in progress failed, or queue it again where it has retries left.

        To be called when this process is about to end: the job itself is not stopped. Returns
        within seconds, even if Valkey does not answer.
        """
        thread = threading.Thread(target=self._record_failure, args=(reason,), daemon=True)
        thread.start()
        thread.join(GIVE_UP_SECONDS)

    def _record_failure(self, reason: str) -> None:
        self._ending.acquire()
        if self.job_in_progress is None:
            return  # it has just ended by itself
        job, queue, execution, _ = self.job_in_progress
        job.ended_at = now()
        self.handle_job_failure(job, queue, exc_string=reason, execution=execution)

    def teardown(self) -> None:
        """RQ ends its loop here; with Valkey gone its goodbye fails, which changes nothing."""
        try:
            if self.popper is not None:
                self.popper.settle(self.connection)
            super().teardown()
        except RedisError as problem:
            logger.warning("Valkey does not answer (%s).", problem)
            with suppress(RedisError):
                self.unsubscribe()
