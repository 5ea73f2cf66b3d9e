"""Web processes of each application server that scenarios compare, and what they are asked."""

import http.client
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import psutil

from benchmarks import harness
from config import serve
from config.embedded import die_with_parent
from config.services import BASE_DIR

OURS = {"wsgi": "config.wsgi:application", "asgi": "benchmarks.bare_door:our_asgi"}
BARE = {"wsgi": "benchmarks.bare_door:application", "asgi": "benchmarks.bare_door:asgi"}
"""A constant and an insert, and nothing else of ours."""
ALONE = {"wsgi": "benchmarks.bare_door:alone", "asgi": "benchmarks.bare_door:alone_asgi"}
"""A constant without Django: the server alone."""

INTERFACES = {"granian-wsgi": "wsgi", "gthread": "wsgi", "granian-asgi": "asgi", "uvicorn": "asgi"}
"""Of each server. Under ASGI Django's views run in threads all the same, one for each request."""
OTHERS = {
    "gthread": "gunicorn --worker-class=gthread --bind=127.0.0.1:{port} --workers={processes}"
    " --threads={threads} --keep-alive=75 --log-level=error",
    "granian-asgi": "granian --interface=asgi --http=1 --host=127.0.0.1 --port={port}"
    " --workers={processes} --no-ws --log-level=error",
    "uvicorn": "uvicorn --interface=asgi3 --host=127.0.0.1 --port={port} --workers={processes}"
    " --lifespan=off --timeout-keep-alive=75 --log-level=error --no-access-log",
}
USUAL = "granian-wsgi"
"""The one that serves in production too (config/serve.py)."""


def is_installed(server: str) -> bool:
    return find_spec(OTHERS.get(server, "granian").split()[0]) is not None


def _command(server: str, application: str, port: int, processes: int, threads: int) -> list[str]:
    if server == USUAL:
        return serve.command(port, application, processes=processes, threads=threads)
    words = OTHERS[server].format(port=port, processes=processes, threads=threads).split()
    return [sys.executable, "-m", *words, application]


@dataclass
class Web:
    """Web processes that run."""

    port: int
    root: psutil.Process

    @property
    def megabytes(self) -> float:
        """The resident memory of the largest process."""
        family = (self.root, *self.root.children(recursive=True))
        return float(max(process.memory_info().rss for process in family) / 2**20)


@contextmanager
def running_web(
    applications: dict[str, str] = OURS,
    *,
    server: str = USUAL,
    processes: int = 1,
    threads: int = 32,
) -> Iterator[Web]:
    """Run web processes; the block starts when they answer."""
    port = harness.free_port()
    application = applications[INTERFACES[server]]
    process = subprocess.Popen(
        _command(server, application, port, processes, threads),
        cwd=BASE_DIR,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
    )
    try:
        harness.wait_until(lambda: _answers(port), 30, server)
        yield Web(port, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
