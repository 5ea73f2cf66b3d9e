"""Preflight checks: a worker refuses to start where it could not keep its delivery guarantees."""

import logging
import resource
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from webhooks.dispatch import lease, life
from webhooks.dispatch.flight import MAX_BYTES, MAX_IN_FLIGHT
from webhooks.postgres.sql import is_pooled
from webhooks.repair.doctor import examine
from webhooks.repair.doctor_servers import check_database, check_valkey
from webhooks.repair.findings import Finding, Level, failure, ok

logger = logging.getLogger(__name__)

FILES_BESIDE_SOCKETS = 128
LEAST_MEMORY_BYTES = MAX_BYTES + 160 * 1024 * 1024
"""Payloads in flight, plus 160 MB for the process; with less, the kernel may kill a busy worker."""
BEATS_BEFORE_DEATH = 3
"""With fewer, a single late heartbeat would declare a running worker dead."""
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def refusals() -> list[str]:
    """Return the reasons why a worker must not start here, each with its remedy; empty if none.

    Problems of Valkey are only logged, never a reason (invariant 2). As a side effect, this raises
    the process's soft limit of open files if necessary.
    """
    refused = []
    for finding in examine(CHECKS):
        line = f"{finding.message} To fix it: {finding.mend}"
        if finding.level == Level.FAILURE:
            refused.append(line)
        elif finding.level == Level.WARNING:
            logger.warning(line)
    return refused


def check_wakeup() -> Iterator[Finding]:
    """Check that notifications of commits reach this worker."""
    if settings.WEBHOOKS_WAKEUP == "listen" and is_pooled():
        yield failure(
            "wakeup",
            "WEBHOOKS_WAKEUP=listen does not work through a connection pooler, and this worker's "
            "DATABASE_URL leads to one: it would get no notifications of commits.",
            "Give workers a DATABASE_URL that leads directly to Postgres, or set WEBHOOKS_WAKEUP=rq",
        )
    else:
        yield ok("wakeup", f"Workers are notified of commits by {settings.WEBHOOKS_WAKEUP}.")


def check_lease() -> Iterator[Finding]:
    """Check that a worker sends several heartbeats in the time after which it counts as dead."""
    if lease.BEAT_SECONDS * BEATS_BEFORE_DEATH > life.SILENCE_BEFORE_DEATH_SECONDS:
        yield failure(
            "lease",
            f"A worker sends a heartbeat every {lease.BEAT_SECONDS:g} s and counts as dead after "
            f"{life.SILENCE_BEFORE_DEATH_SECONDS:g} s: its deliveries would be sent twice.",
            f"Set SILENCE_BEFORE_DEATH_SECONDS to at least {BEATS_BEFORE_DEATH} times BEAT_SECONDS",
        )
    else:
        yield ok("lease", "Workers send heartbeats often enough.")


def check_files() -> Iterator[Finding]:
    """Check the limit of open files, which must allow a socket per request in flight."""
    needed = MAX_IN_FLIGHT + FILES_BESIDE_SOCKETS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        yield failure(
            "files",
            f"The limit of open files is {hard:,}; a worker needs {needed:,}.",
            f"Run ulimit -n {needed} (LimitNOFILE={needed} in a systemd unit), and restart",
        )
        return
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield ok("files", f"{needed:,} files may be open.")


def check_memory() -> Iterator[Finding]:
    """Check that the container's memory limit leaves room for the payloads in flight."""
    limit = _memory_limit_bytes()
    needed = LEAST_MEMORY_BYTES // 2**20
    if limit is not None and limit < LEAST_MEMORY_BYTES:
        yield failure(
            "memory",
            f"The memory limit is {limit // 2**20} MB; a worker needs up to {needed} MB.",
            f"Raise the container's memory limit to at least {needed} MB, and restart",
        )
    else:
        yield ok("memory", "The memory limit is high enough.")


def _memory_limit_bytes() -> int | None:
    """Return the memory limit of this process's control group, or None."""
    for path in MEMORY_LIMITS:
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            continue  # another version of control groups, or no limit ("max")
    return None


CHECKS = [
    check_database,
    check_valkey,
    check_wakeup,
    check_lease,
    check_files,
    check_memory,
]
