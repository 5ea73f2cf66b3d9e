"""The doctor's check of Valkey; needs the packages redis and rq."""

import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from redis.exceptions import RedisError

from webhooks.outbox import hints, valkey
from webhooks.repair.findings import Finding, failure, ok, warning

SLOW_VALKEY_MS = 20


def _loss() -> str:
    if settings.WEBHOOKS_WAKEUP == "rq":
        return "events are sent up to a second later"
    return "each process counts the requests of clients alone"


def check_valkey() -> Iterator[Finding]:
    """Check that Valkey is reachable, fast, standalone and without eviction, and its queue short."""
    try:
        client = valkey.connect(2.0)
        client.ping()
        started_at = time.monotonic()
        client.ping()
        milliseconds = (time.monotonic() - started_at) * 1000
        server: Any = client.info("server")
        # Redis and Valkey use different names.
        mode = server.get("redis_mode") or server.get("server_mode") or "standalone"
        if mode != "standalone":
            yield failure(
                "valkey",
                f"REDIS_URL leads to a server in {mode} mode: jobs cannot be queued there.",
                "Set REDIS_URL to a standalone Valkey or Redis, or to redis+sentinel://…",
            )
            return
        waiting = hints.make_queue(client).count
        memory: Any = client.info("memory")
    except RedisError as problem:
        yield warning(
            "valkey",
            f"Valkey is unavailable ({type(problem).__name__}): {_loss()}.",
            "Start Valkey, or correct REDIS_URL",
        )
        return
    # Some servers with Redis's protocol do not report their policy.
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield warning(
            "valkey",
            f"Valkey evicts keys, including jobs, when its memory is full ({policy}).",
            "valkey-cli CONFIG SET maxmemory-policy noeviction (and in valkey.conf)",
        )
    if waiting >= hints.MAX_QUEUE_LENGTH:
        yield warning(
            "valkey",
            f"The queue {settings.WEBHOOKS_QUEUE!r} has {waiting:,} jobs: no worker takes them.",
            "manage.py rqworker",
        )
    message = f"Valkey responds in {milliseconds:.0f} ms."
    if milliseconds > SLOW_VALKEY_MS:
        yield warning("valkey", message, "Look for slow commands: valkey-cli SLOWLOG GET")
    else:
        yield ok("valkey", message)
