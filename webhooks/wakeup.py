"""Tell the workers that something is due: the only producer-side use of RQ.

A wake-up is a hint and may be lost without harm (invariant 2): workers look at Postgres at least
once a second anyway. All of it happens on one daemon thread per process, so that no save ever
waits for Valkey, a connection or a name look-up.

Protocol: `SET NX PX` a token, then enqueue one RQ job; on an error delete the token. The
dispatcher deletes the token after an empty claim and then claims once more.
"""

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import redis
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.queue import Queue

logger = logging.getLogger(__name__)

JOB_FUNCTION = "webhooks.jobs.dispatch"
JOB_DESCRIPTION = "webhooks wake-up"
JOB_ID_PREFIX = "webhooks-wakeup-"
"""A worker knows a wake-up by its id and need not read the job."""
TOKEN_KEY = "webhooks:wakeup"
TOKEN_TTL_MS = 5000
TIMEOUT_SECONDS = 0.25
"""Longest wait for one answer of Valkey; a hint that takes longer is not worth sending."""
PROBE_INTERVAL_SECONDS = 10
"""How long Valkey is left alone after it failed to answer."""
EXIT_FLUSH_SECONDS = 0.25
MAX_QUEUE_LENGTH = 100
"""With this many jobs waiting nobody is listening; more hints would only pile up."""


class Hinter:
    """Sends hints from a daemon thread; hints that come while one is being sent merge into one."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._is_pending = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None
        self._silent_until = 0.0

    def nudge(self, *, force: bool = False) -> None:
        """Ask for one wake-up; returns at once. `force` sends it even while a token stands."""
        if self._is_pending and not force:
            return
        self._is_pending = True
        self._order(partial(self._send, force))

    def clear_token(self, then: Callable[[], None]) -> None:
        """Delete the token, so that the next commit sends a hint again, and call `then`."""
        self._order(partial(self._clear, then))

    def flush(self, timeout_seconds: float) -> None:
        """Wait until everything ordered so far was sent, or the time is up."""
        if self._thread is None or not self._thread.is_alive():
            return
        done = threading.Event()
        self._orders.put(done.set)
        done.wait(timeout_seconds)

    def _order(self, action: Callable[[], None]) -> None:
        self._orders.put(action)
        if self._thread is None or not self._thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="wakeup", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            action = self._orders.get()
            try:
                action()
            except Exception:
                # The thread must outlive whatever one hint runs into; a lost hint does no harm.
                logger.exception("A wake-up could not be sent.")

    def _send(self, force: bool) -> None:
        # Cleared first: a commit from here on needs a hint of its own.
        self._is_pending = False
        if time.monotonic() < self._silent_until:
            return
        try:
            client = self._connect()
            pipeline = client.pipeline(transaction=False)
            pipeline.set(TOKEN_KEY, os.getpid(), nx=not force, px=TOKEN_TTL_MS)
            pipeline.llen(Queue.redis_queue_namespace_prefix + settings.WEBHOOKS_QUEUE)
            # While events pour in a token stands nearly always, and this is all that is done.
            is_first, waiting = pipeline.execute()
            if is_first and waiting < MAX_QUEUE_LENGTH:
                self._enqueue(client)
        except redis.RedisError as problem:
            self._give_up(problem)

    def _enqueue(self, client: redis.Redis) -> None:
        try:
            # In one exchange; RQ alone would make four, and the worker waits for the last of them.
            with client.pipeline() as pipeline:
                make_queue(client).enqueue_call(
                    JOB_FUNCTION,
                    job_id=JOB_ID_PREFIX + uuid4().hex,
                    result_ttl=0,
                    failure_ttl=60,
                    ttl=60,
                    description=JOB_DESCRIPTION,
                    pipeline=pipeline,
                )
                pipeline.execute()
        except redis.RedisError:
            with contextlib.suppress(redis.RedisError):
                client.delete(TOKEN_KEY)
            raise

    def _clear(self, then: Callable[[], None]) -> None:
        try:
            if time.monotonic() >= self._silent_until:
                self._connect().delete(TOKEN_KEY)
        except redis.RedisError as problem:
            self._give_up(problem)
        finally:
            then()

    def _connect(self) -> redis.Redis:
        if self._client is None:
            self._client = connect(TIMEOUT_SECONDS)
        return self._client

    def _give_up(self, problem: Exception) -> None:
        self._silent_until = time.monotonic() + PROBE_INTERVAL_SECONDS
        self._client = None
        logger.warning(
            "Valkey does not answer (%s); workers find new events by polling.",
            type(problem).__name__,
        )


def connect(timeout_seconds: float) -> redis.Redis:
    """Return a client of REDIS_URL that never waits longer than the timeout for one answer."""
    options: dict[str, Any] = {
        "socket_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    if not settings.REDIS_URL.startswith("unix:"):
        options["socket_connect_timeout"] = timeout_seconds
    return redis.Redis.from_url(settings.REDIS_URL, **options)


def make_queue(client: redis.Redis) -> Queue:
    """Return the RQ queue that wake-ups travel on."""
    return Queue(
        settings.WEBHOOKS_QUEUE, connection=client, serializer="rq.serializers.JSONSerializer"
    )


_hinter = Hinter()


def nudge(*, force: bool = False) -> None:
    """Tell a worker that something is due. Never blocks, never raises."""
    _hinter.nudge(force=force)


def nudge_on_commit(using: str = DEFAULT_DB_ALIAS) -> None:
    """Tell a worker once the transaction is committed.

    Not with autocommit switched off by hand: Django then has no such moment, and workers find the
    rows by polling.
    """
    connection = connections[using]
    if connection.in_atomic_block or connection.get_autocommit():
        transaction.on_commit(nudge, using=using, robust=True)


def clear_token(then: Callable[[], None]) -> None:
    """Let the next commit send a hint again; `then` is called afterwards, on another thread."""
    _hinter.clear_token(then)


def _start_afresh() -> None:
    # Threads and sockets do not survive a fork.
    global _hinter
    _hinter = Hinter()


os.register_at_fork(after_in_child=_start_afresh)
# A command that saves and exits at once gets its hint out, if Valkey answers quickly.
atexit.register(lambda: _hinter.flush(EXIT_FLUSH_SECONDS))
