"""A control group that lets the kernel end a process for want of memory."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.workers import wait_until

GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)
"""The root of the groups, and the file of a group's limit; of both versions of the kernel's interface."""
LIMIT_BYTES = 64 * 1024
"""Less than any process asks for next. What it has already counts elsewhere."""


def can_limit() -> bool:
    """Whether this process may make such a group."""
    try:
        with _group() as limit:
            return limit.exists()
    except OSError:
        return False


def run_out_of_memory(pids: Iterable[int]) -> None:
    """Let the kernel kill these processes, as it does with a container that is at its limit."""
    with _group() as limit:
        limit.write_text(str(LIMIT_BYTES))
        procs = limit.with_name("cgroup.procs")
        for pid in pids:
            procs.write_text(str(pid))
        wait_until(lambda: not procs.read_text())


@contextmanager
def _group() -> Iterator[Path]:
    root, name = next(
        (group for group in GROUPS if (group[0] / "cgroup.procs").exists()), GROUPS[0]
    )
    group = root / f"chaos-{os.getpid()}"
    group.mkdir()
    try:
        yield group / name
    finally:
        group.rmdir()
