"""Processor time of everything that a scenario runs, one figure for each part of the system."""

import contextlib
from collections.abc import Mapping, Sequence

import psutil
from django.db import connection

from webhooks.outbox import valkey


def valkey_process() -> psutil.Process:
    return psutil.Process(valkey.connect(5).info("server")["process_id"])


def postgres_process() -> psutil.Process:
    """Return the server itself; its backends are its children."""
    server = psutil.Process(_own_backend()).parent()
    assert server is not None
    return server


def _own_backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


class PartTimes:
    """Processor seconds that each part has used since this was made.

    A part is some processes with all their descendants, those included that have ended and were
    waited for. Postgres and Valkey are added, without the backend of this process.
    """

    def __init__(self, parts: Mapping[str, Sequence[psutil.Process]]) -> None:
        self._parts = {
            **parts,
            "Postgres": [postgres_process()],
            "Valkey": [valkey_process()],
        }
        self._before = self._read()

    def seconds(self) -> dict[str, float]:
        return {name: used - self._before[name] for name, used in self._read().items()}

    def _read(self) -> dict[str, float]:
        used = {name: sum(map(_tree_seconds, roots)) for name, roots in self._parts.items()}
        used["Postgres"] -= sum(psutil.Process(_own_backend()).cpu_times()[:2])
        return used


def _tree_seconds(root: psutil.Process) -> float:
    """Return the seconds of a process and its descendants, living and waited for."""
    seconds = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:4])
    return seconds
