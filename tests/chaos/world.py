"""The processes of a chaos run: workers, the web server, producers, and the servers under them."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config.embedded import die_with_parent
from config.serve import command
from config.services import BASE_DIR
from tests.chaos.clock import Clock
from tests.chaos.crew import Crew, Process
from tests.chaos.disk import Disk
from tests.chaos.network import Network, Way
from tests.chaos.postgres import Postgres
from tests.chaos.recipients import Recipient
from tests.workers import free_port, serves

SITE = Path(__file__).with_name("site")
NOTHING: Mapping[str, str] = {}
WEB_PROCESSES = 2
WEB_THREADS = 8
"""Each keeps a connection to Postgres, which has a hundred."""


@dataclass
class Servers:
    """What a run owns beside its processes."""

    postgres: Postgres
    valkey: Path | None
    """Its socket; None where there is no Valkey."""
    disk: Disk
    database_clock: Clock | None
    worker_clock: Clock | None
    folder: Path
    """For the causes, the feed and the names."""
    certificates: Path
    """The folder with those of the receiver."""


class World(Crew):
    """The processes of `make chaos`, on one machine.

    All in production mode, over TCP: each worker by a way of its own, so that it can be cut off.
    """

    def __init__(
        self,
        seed: int,
        worker_count: int,
        servers: Servers,
        recipients: list[Recipient],
        token: str,
    ) -> None:
        """`token` is the client's, for the HTTP API."""
        super().__init__(seed, worker_count, recipients)
        self.servers = servers
        self.folder = servers.folder
        self.network = Network(servers.folder / "names.json")
        self._token = token
        self._port = free_port()
        self._log = (BASE_DIR / "var" / "chaos.log").open("wb")
        ways = [self.network.make_way(servers.postgres.address) for _ in range(worker_count + 1)]
        *self._ways, self._way = ways
        self._valkey_url = (
            os.environ["REDIS_URL"]
            if servers.valkey is None
            else self.network.make_way(servers.valkey).redis_url
        )

    def worker_and_way(self) -> tuple[Process, Way]:
        """Return a worker, and the one way by which it reaches Postgres."""
        return self.dice.choice(list(zip(self.workers, self._ways, strict=True)))

    def web_answers(self, number: int) -> bool:
        return serves(self._port)

    def spawn_worker(self, number: int) -> Process:
        clock = self.servers.worker_clock
        environment = {"CHAOS_NAMES": str(self.network.names), "PYTHONPATH": str(SITE)}
        environment |= clock.environment if clock else {}
        return self._spawn("manage.py", "rqworker", way=self._ways[number], environment=environment)

    def spawn_web(self, number: int) -> Process:
        _, *arguments = command(self._port, processes=WEB_PROCESSES, threads=WEB_THREADS)
        # The server's own processes would outlive it.
        environment = {"CHAOS_ENDS_WITH_PARENT": "1", "PYTHONPATH": str(SITE)}
        return self._spawn(*arguments, environment=environment)

    def spawn_follower(self) -> Process:
        return self._spawn("-m", "tests.chaos.follower", str(self.feed))

    def spawn_producers(self, seed: int) -> list[Process]:
        owners = sorted({r.owner for r in self.recipients if r.owner is not None})
        client = [f"http://localhost:{self._port}", self._token, self.causes_file(3), *owners]
        return [
            self._spawn("-m", "tests.chaos.producer", str(seed + 1), self.causes_file(1)),
            self._spawn("-m", "tests.chaos.producer", str(seed + 2), self.causes_file(2)),
            self._spawn("-m", "tests.chaos.client", str(seed + 3), *client),
        ]

    def _spawn(
        self, *arguments: str, way: Way | None = None, environment: Mapping[str, str] = NOTHING
    ) -> subprocess.Popen[bytes]:
        servers = {
            "DATABASE_URL": (way or self._way).database_url,
            "REDIS_URL": self._valkey_url,
            "PYTHONFAULTHANDLER": "1",
        }
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=BASE_DIR,
            env={**os.environ, **servers, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # Nothing of a run outlives it, however it ends.
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
