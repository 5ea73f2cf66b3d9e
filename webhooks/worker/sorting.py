"""RQ's side of a worker: sort what is popped into wake-ups, jobs of ours, and jobs of others.

A wake-up is consumed where it is popped. A job that this project declares runs, and its end is
written down. Whatever else lies on the queue is never run and never failed: it goes back to the
queue's end, for the workers it is meant for. A crash between the pop and that leaves the job in
RQ's intermediate queue, which RQ's maintenance looks after.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import DequeueTimeout, StopRequested
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.utils import get_version, now

from webhooks.errors import WebhooksError
from webhooks.outbox import hints
from webhooks.worker.declared_jobs import declared_class, require_declared
from webhooks.worker.popper import BUSY_SECONDS, Popper
from webhooks.worker.threaded import ThreadedWorker

logger = logging.getLogger(__name__)

REST_SECONDS = 1.0
"""Between two rounds through jobs that are left to others; the poll takes as long to find events."""
MOST_LEFT = 1000
"""Jobs that one round looks at."""
LINE_SECONDS = 60.0
"""Between two log lines about them."""


class SortingWorker(ThreadedWorker):
    """Tells `hear_wakeup` of wake-ups, and runs only jobs of ours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.job_class = declared_class(self.job_class)
        self.queue_class = self._sorting_class(self.queue_class)
        for queue in self.queues:
            # Through these RQ's maintenance finds abandoned jobs, and calls their callbacks.
            queue.job_class, queue.serializer = self.job_class, JSONSerializer
        self._is_burst = False
        self._stopping = threading.Event()
        self._has_woken = False
        self._left: set[str] = set()
        self._next_line_at = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the dispatcher will look at Postgres again without being told to."""
        raise NotImplementedError

    def hear_wakeup(self) -> None:
        """Something may be due."""
        raise NotImplementedError

    # What is popped.

    def _sorting_class(self, queue_class: type[Queue]) -> type[Queue]:
        """Return RQ's queue as a class that gives RQ only jobs that this worker may run."""
        worker = self

        class SortingQueue(queue_class):  # type: ignore[valid-type, misc]
            @classmethod
            def dequeue_any(
                cls, queues: list[Queue], timeout: int | None, connection: Redis, **options: Any
            ) -> tuple[Job, Queue] | None:
                if worker._stop_requested:
                    raise StopRequested
                is_lone = len(queues) == 1 and get_version(connection) >= (6, 2, 0)
                if worker.popper is not None and timeout is not None and is_lone:
                    return cls._pop_by_loop(worker.popper, queues[0], timeout, connection, options)
                popped: tuple[Job, Queue] | None = super().dequeue_any(
                    queues, timeout, connection=connection, **options
                )
                return popped

            @classmethod
            def _pop_by_loop(
                cls,
                popper: Popper,
                queue: Queue,
                timeout: int,
                connection: Redis,
                options: dict[str, Any],
            ) -> tuple[Job, Queue]:
                while True:
                    job_id = popper.pop(connection, queue.key, timeout)
                    if job_id is None and worker._stop_requested:
                        raise StopRequested
                    if job_id is None:
                        raise DequeueTimeout(timeout, queue.key)
                    fetched: tuple[Job, Queue] | None = cls._fetch_dequeued_job(
                        connection, queue.key, job_id.decode(), **options
                    )
                    if fetched is not None:
                        return fetched

            @classmethod
            def _fetch_dequeued_job(
                cls, connection: Redis, queue_key: str, job_id: str, **options: Any
            ) -> tuple[Job, Queue] | None:
                # None makes RQ pop again.
                fetch = super()._fetch_dequeued_job
                return worker._sort(
                    queue_key, job_id, lambda: fetch(connection, queue_key, job_id, **options)
                )

        return SortingQueue

    def _sort(
        self, queue_key: str, job_id: str, fetch: Callable[[], tuple[Job, Queue] | None]
    ) -> tuple[Job, Queue] | None:
        """Return the job if it is to run; without one, RQ pops again."""
        if job_id.startswith(hints.JOB_ID_PREFIX):
            self._consume_wakeup(queue_key, job_id)
        elif self._stop_requested:
            self._put_back(queue_key, job_id, at_front=True)
        elif fetched := self._fetch_own(queue_key, job_id, fetch):
            return fetched
        if self._stop_requested:
            raise StopRequested
        if (now() - (self.last_heartbeat or now())).total_seconds() > self.dequeue_timeout:
            # RQ beats and does its maintenance after a pop that found nothing.
            raise DequeueTimeout(self.dequeue_timeout, queue_key)
        return None

    def _fetch_own(
        self, queue_key: str, job_id: str, fetch: Callable[[], tuple[Job, Queue] | None]
    ) -> tuple[Job, Queue] | None:
        try:
            fetched = fetch()
            if fetched is None:
                return None
            if fetched[0].func_name == hints.JOB_FUNCTION:
                # Of another version, or enqueued by hand.
                self._consume_wakeup(queue_key, job_id)
                return None
            require_declared(fetched[0])
        except RedisError:
            raise
        except Exception as problem:
            # Whatever is wrong with it: what cannot be read or run here is not ours to fail.
            self._leave(queue_key, job_id, problem)
            return None
        return fetched

    def _consume_wakeup(self, queue_key: str, job_id: str) -> None:
        """The hint is all there is to it: no registries, no result, no log line.

        While the dispatcher is busy the next one is left on the queue for a moment, where it keeps
        commits silent; here that holds up RQ's other jobs as well.
        """
        self._has_woken = True
        is_busy = self.is_busy
        try:
            with self.connection.pipeline(transaction=False) as pipeline:
                pipeline.delete(Job.key_for(job_id))
                pipeline.lrem(IntermediateQueue.get_intermediate_queue_key(queue_key), 1, job_id)
                pipeline.execute()
        finally:
            self.hear_wakeup()
        if is_busy:
            self._stopping.wait(BUSY_SECONDS)

    def _put_back(self, queue_key: str, job_id: str, *, at_front: bool) -> None:
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(IntermediateQueue.get_intermediate_queue_key(queue_key), 1, job_id)
            push = pipeline.lpush if at_front else pipeline.rpush
            push(queue_key, job_id)
            pipeline.execute()

    def _leave(self, queue_key: str, job_id: str, reason: Exception) -> None:
        """Put a job back for other workers; after a round through all such jobs, rest."""
        self._put_back(queue_key, job_id, at_front=False)
        if time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + LINE_SECONDS
            logger.warning(
                "Job %s is left on the queue %s to other workers (%s). Give webhooks a queue of "
                "their own with WEBHOOKS_QUEUE where jobs of others share it.",
                job_id,
                queue_key.removeprefix(Queue.redis_queue_namespace_prefix),
                reason if isinstance(reason, WebhooksError) else type(reason).__name__,
            )
        if job_id not in self._left and len(self._left) < MOST_LEFT:
            self._left.add(job_id)
            return
        self._left.clear()
        if self._is_burst:
            # All that is ours was popped.
            raise StopRequested
        self._stopping.wait(REST_SECONDS)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """As RQ does, but who hears wake-ups is not idle."""
        while True:
            self._has_woken = False
            popped = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
            if popped or max_idle_time is None or not self._has_woken:
                return popped
