"""What a worker looks at before it starts: where it could not keep its promises, it does not run."""

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
"""Payloads in flight and all else; with less the kernel would kill it in the middle of its work."""
BEATS_BEFORE_DEATH = 3
"""Fewer, and one late beat would have a worker that lives declared dead."""
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def refusals() -> list[str]:
    """Return why a worker must not start here, each with what mends it; empty where it may.

    Nothing about Valkey is a reason (invariant 2); it is only logged. Raises the limit of open
    files as far as it is allowed.
    """
    refused = []
    for finding in examine(CHECKS):
        line = f"{finding.message} To mend it: {finding.mend}"
        if finding.level == Level.FAILURE:
            refused.append(line)
        elif finding.level == Level.WARNING:
            logger.warning(line)
    return refused


def check_wakeup() -> Iterator[Finding]:
    """What tells of commits reaches this worker."""
    if settings.WEBHOOKS_WAKEUP == "listen" and is_pooled():
        yield failure(
            "wakeup",
            "WEBHOOKS_WAKEUP=listen, and a pooler that lends connections for a transaction stands "
            "between this worker and Postgres: it would hear of nothing.",
            "Give workers a DATABASE_URL that leads to Postgres itself, or set WEBHOOKS_WAKEUP=rq",
        )
    else:
        yield ok("wakeup", f"Workers learn of commits by {settings.WEBHOOKS_WAKEUP}.")


def check_lease() -> Iterator[Finding]:
    """A worker beats several times before it counts as dead."""
    if lease.BEAT_SECONDS * BEATS_BEFORE_DEATH > life.SILENCE_BEFORE_DEATH_SECONDS:
        yield failure(
            "lease",
            f"A worker beats every {lease.BEAT_SECONDS:g} s and counts as dead after "
            f"{life.SILENCE_BEFORE_DEATH_SECONDS:g} s: its rows would be sent twice.",
            f"Let SILENCE_BEFORE_DEATH_SECONDS be at least {BEATS_BEFORE_DEATH} times BEAT_SECONDS",
        )
    else:
        yield ok("lease", "Workers beat often enough.")


def check_files() -> Iterator[Finding]:
    """As many files may be open as there may be requests in flight."""
    needed = MAX_IN_FLIGHT + FILES_BESIDE_SOCKETS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        yield failure(
            "files",
            f"Only {hard:,} files may be open, and {needed:,} are needed.",
            f"ulimit -n {needed} (LimitNOFILE={needed} in a systemd unit), and start again",
        )
        return
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield ok("files", f"{needed:,} files may be open.")


def check_memory() -> Iterator[Finding]:
    """The container's limit leaves room for the payloads in flight."""
    limit = _memory_limit_bytes()
    needed = LEAST_MEMORY_BYTES // 2**20
    if limit is not None and limit < LEAST_MEMORY_BYTES:
        yield failure(
            "memory",
            f"Only {limit // 2**20} MB of memory are allowed, and up to {needed} MB are needed.",
            f"Raise the container's memory limit to {needed} MB or more, and start again",
        )
    else:
        yield ok("memory", "There is memory enough.")


def _memory_limit_bytes() -> int | None:
    """Return the limit of this process's control group; None where there is none."""
    for path in MEMORY_LIMITS:
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            continue  # not this version of control groups, or no limit ("max")
    return None


CHECKS = [
    check_database,
    check_valkey,
    check_wakeup,
    check_lease,
    check_files,
    check_memory,
]
