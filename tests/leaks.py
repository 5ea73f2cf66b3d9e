"""A pytest plugin: a test that leaves a thread or an open socket behind fails, not a later one.

The garbage collector warns of a socket that nobody closed whenever it happens to run. Here it runs
after each test that has left new file descriptors open, before the test's warnings are looked at.
"""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

LASTING_THREADS = (
    "asgiref",
    "asyncio",
    "resolver",
    "ThreadPoolExecutor",
    "wakeup",
    "webhooks-mail",
)
"""How the names of threads begin that serve the whole process, or that nothing can interrupt."""
SECONDS_TO_END = 20


def pytest_collection_finish() -> None:
    # What stands now stays: collecting then looks only at what tests make.
    gc.collect()
    gc.freeze()


def open_files() -> set[str]:
    """Return what this process has open; a socket has a number of its own."""
    names = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            names.add(str(descriptor.readlink()))
    return names


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    files, threads = open_files(), set(threading.enumerate())
    yield
    _wait_for_threads(set(threading.enumerate()) - threads)
    if open_files() - files:
        gc.collect()


def _wait_for_threads(threads: set[threading.Thread]) -> None:
    deadline = time.monotonic() + SECONDS_TO_END
    for thread in threads:
        # RQ's own, of a worker whose Valkey refuses what would end it.
        is_rqs = type(thread).__name__ == "PubSubWorkerThread"
        if not is_rqs and not thread.name.startswith(LASTING_THREADS):
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"{thread} outlives its test"
