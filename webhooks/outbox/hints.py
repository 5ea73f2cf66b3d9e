"""Wake-ups through RQ (`WEBHOOKS_WAKEUP=rq`): needs the packages redis and rq, and loads with them only.

No save ever waits for Valkey, a connection or a name look-up. If a hint cannot be sent without
waiting (webhooks/outbox/direct.py), one daemon thread per process sends it. One script enqueues one
RQ job, unless the last job of the queue is such a job already. The worker claims after it has popped
the job, so that claim finds all rows committed before, and later commits send hints of their own.
"""

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any
from uuid import uuid4

import redis
from django.conf import settings
from redis.commands.core import Script
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.suspension import is_suspended
from rq.utils import now as utcnow
from rq.utils import utcformat

from webhooks.outbox.direct import Direct
from webhooks.outbox.valkey import connect

logger = logging.getLogger(__name__)

JOB_FUNCTION = "webhooks.jobs.dispatch"
JOB_DESCRIPTION = "webhooks wake-up"
JOB_ID_PREFIX = "webhooks-wakeup-"
"""The prefix of a wake-up's job id, so that a worker need not read the job."""
TIMEOUT_SECONDS = 0.25
"""The longest wait for a reply of Valkey; a slower hint would be useless."""
PROBE_INTERVAL_SECONDS = 10
"""How long a process sends no hints after Valkey failed."""
EXIT_FLUSH_SECONDS = 0.25
MAX_QUEUE_LENGTH = 100
"""With this many queued jobs no worker is listening; more hints would only pile up."""


JOB_TTL_SECONDS = 60

# The steps of RQ's enqueue, skipped if the last job of the queue is a wake-up or no worker listens:
# under load there is nearly always one, so that the script does nothing else.
ENQUEUE_LUA = """
local queue, job, queues = KEYS[1], KEYS[2], KEYS[3]
local id, prefix, force, most, job_seconds = unpack(ARGV, 1, 5)
if force == '0' then
  local last = redis.call('LINDEX', queue, -1)
  if last and string.sub(last, 1, #prefix) == prefix then
    return 0
  end
end
if redis.call('LLEN', queue) >= tonumber(most) then
  return 0
end
redis.call('HSET', job, unpack(ARGV, 6))
redis.call('EXPIRE', job, job_seconds)
redis.call('SADD', queues, queue)
redis.call('RPUSH', queue, id)
return 1
"""


def _job_fields(client: redis.Redis) -> dict[str, Any]:
    """Return the fields that RQ stores for a wake-up, so that any stock worker can run it."""
    job = make_queue(client).create_job(
        JOB_FUNCTION,
        result_ttl=0,
        failure_ttl=60,
        ttl=JOB_TTL_SECONDS,
        description=JOB_DESCRIPTION,
        status=JobStatus.QUEUED,
    )
    return {name: value for name, value in job.to_dict().items() if value is not None}


# As long as the values that replace them.
PLACE_OF_ID = JOB_ID_PREFIX + "0" * 32
PLACE_OF_TIME = "0000-00-00T00:00:00.000000Z"


def new_job_id() -> str:
    return JOB_ID_PREFIX + uuid4().hex


class Hinter:
    """Sends hints, at once or from a daemon thread; hints during a send of the thread merge into one."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._is_pending = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None
        self._script: Script | None = None
        self._job: dict[str, Any] = {}
        self._direct = Direct(TIMEOUT_SECONDS)
        self._packed = b""
        """The bytes of a hint without its id and time."""
        self._silent_until = 0.0

    def nudge(self, *, force: bool = False) -> None:
        """Request one wake-up and return at once; `force` sends it even if one is queued already."""
        if not force and (self._is_pending or self._send_at_once()):
            return
        self._is_pending = True
        try:
            self._order(partial(self._send, force))
        except RuntimeError as problem:
            self._is_pending = False
            logger.warning("A wake-up is not sent: %s", problem)

    def flush(self, timeout_seconds: float) -> None:
        """Wait until all requested hints are sent, or until the timeout."""
        if self._thread is None or not self._thread.is_alive():
            return
        done = threading.Event()
        self._orders.put(done.set)
        done.wait(timeout_seconds)

    def _order(self, action: Callable[[], None]) -> None:
        """Let the thread run an action; raises RuntimeError if the system has no thread left."""
        if self._thread is None or not self._thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="wakeup", daemon=True)
                    self._thread.start()
        self._orders.put(action)

    def _run(self) -> None:
        while True:
            action = self._orders.get()
            try:
                action()
            except Exception:
                # The thread must survive any error of a hint; a lost hint does no harm.
                logger.exception("A wake-up could not be sent.")

    def _send(self, force: bool) -> None:
        # Clear it first: a commit from now on needs a hint of its own.
        self._is_pending = False
        if time.monotonic() < self._silent_until:
            return
        try:
            self._enqueue(force)
        except redis.RedisError as problem:
            self._give_up(problem)

    def _enqueue(self, force: bool) -> None:
        if self._client is None or self._script is None:
            self._client = connect(TIMEOUT_SECONDS)
            self._script = self._client.register_script(ENQUEUE_LUA)
            self._job = _job_fields(self._client)
        keys, arguments = self._operands(new_job_id(), utcformat(utcnow()), force)
        self._script(keys=keys, args=arguments)
        self._direct.open(self._client)
        keys, arguments = self._operands(PLACE_OF_ID, PLACE_OF_TIME, False)
        self._packed = self._direct.pack("EVALSHA", self._script.sha, 3, *keys, *arguments) or b""

    def _operands(self, job_id: str, now: str, force: bool) -> tuple[list[str], list[Any]]:
        """Return the keys and the arguments of ENQUEUE_LUA."""
        queue_key = Queue.redis_queue_namespace_prefix + settings.WEBHOOKS_QUEUE
        fields = {**self._job, "created_at": now, "enqueued_at": now}
        return [queue_key, Job.key_for(job_id), Queue.redis_queues_keys], [
            job_id, JOB_ID_PREFIX, int(force), MAX_QUEUE_LENGTH, JOB_TTL_SECONDS,
            *chain.from_iterable(fields.items()),
        ]  # fmt: skip

    def _send_at_once(self) -> bool:
        if not self._packed:
            return False
        hint = self._packed.replace(PLACE_OF_ID.encode(), new_job_id().encode())
        return self._direct.send(hint.replace(PLACE_OF_TIME.encode(), utcformat(utcnow()).encode()))

    def _give_up(self, problem: Exception) -> None:
        self._silent_until = time.monotonic() + PROBE_INTERVAL_SECONDS
        self._client = self._script = None
        self._direct.close()
        logger.warning(
            "Valkey does not answer (%s); workers find new events by polling.",
            type(problem).__name__,
        )


def make_queue(client: redis.Redis) -> Queue:
    """Return the RQ queue of the wake-ups."""
    return Queue(
        settings.WEBHOOKS_QUEUE, connection=client, serializer="rq.serializers.JSONSerializer"
    )


def queue_state() -> tuple[int, bool] | None:
    """Return how many jobs wait and whether RQ is suspended; None if Valkey does not answer."""
    client = connect(TIMEOUT_SECONDS)
    try:
        return make_queue(client).count, bool(is_suspended(client))
    except redis.RedisError:
        return None
    finally:
        client.close()


_hinter = Hinter()


def nudge(*, force: bool = False) -> None:
    """Tell a worker that deliveries are due. Never raises, and waits for nothing."""
    _hinter.nudge(force=force)


def _start_afresh() -> None:
    # Threads and sockets do not survive a fork.
    global _hinter
    _hinter = Hinter()


os.register_at_fork(after_in_child=_start_afresh)
# A command that saves and exits at once gets its hint out, if Valkey answers quickly.
atexit.register(lambda: _hinter.flush(EXIT_FLUSH_SECONDS))
