"""Connections to Valkey; needs the package redis, and loads with it only."""

from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from webhooks.outbox import sentinel


def connect(timeout_seconds: float) -> redis.Redis:
    """Return a client of REDIS_URL that waits at most `timeout_seconds` for a reply."""
    options: dict[str, Any] = {
        "socket_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    if not settings.REDIS_URL.startswith("unix:"):
        options["socket_connect_timeout"] = timeout_seconds
    if sentinels := sentinel.read(settings.REDIS_URL):
        return sentinels.client(**options)
    return redis.Redis.from_url(settings.REDIS_URL, **options)
