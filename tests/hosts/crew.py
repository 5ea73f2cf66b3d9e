"""The processes of the product on three hosts, each with a clock of its own."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from config.serve import command
from tests.chaos.clock import Clock
from tests.chaos.crew import Crew, Process
from tests.chaos.network import Network
from tests.chaos.recipients import Recipient
from tests.chaos.world import SITE
from tests.hosts.lab import Host, Lab
from tests.hosts.postgres import Pair, Pooler
from tests.hosts.valkey import WatchedValkey
from tests.workers import serves

WEB_PORT = 8000
WEB_PROCESSES = 1
WEB_THREADS = 4
POOLED_WORKER = 2
"""The number of the worker that reaches Postgres through PgBouncer, like the site and the producers."""


@dataclass
class Place:
    """A host of the product, with what it needs of its own."""

    host: Host
    pooler: Pooler
    clock: Clock | None


@dataclass
class Servers:
    """What a run owns beside its processes."""

    lab: Lab
    outside: Host
    """Where the receiver, the clients and the follower are."""
    postgres: Pair
    valkey: WatchedValkey
    places: list[Place]
    folder: Path
    """For the causes, the feed and the names."""
    log: IO[bytes]

    def point_poolers_at_primary(self) -> None:
        for place in self.places:
            place.pooler.point_at(self.postgres.primary.host)


class HostsCrew(Crew):
    """A worker, the site and a producer on each host; the clients and the follower outside."""

    def __init__(
        self, seed: int, servers: Servers, recipients: list[Recipient], token: str
    ) -> None:
        """`token` is the clients', for the HTTP API."""
        super().__init__(seed, len(servers.places), recipients)
        self.servers = servers
        self.folder = servers.folder
        self.network = Network(servers.folder / "names.json")
        self._token = token

    @property
    def web_count(self) -> int:
        return len(self.servers.places)

    def web_answers(self, number: int) -> bool:
        return serves(WEB_PORT, self.servers.places[number].host.address)

    def spawn_worker(self, number: int) -> Process:
        place = self.servers.places[number]
        is_pooled = number == POOLED_WORKER
        url = place.pooler.url if is_pooled else os.environ["DATABASE_URL"]
        return self._spawn(place, "manage.py", "rqworker", DATABASE_URL=url)

    def spawn_web(self, number: int) -> Process:
        place = self.servers.places[number]
        _, *arguments = command(
            WEB_PORT, host=place.host.address, processes=WEB_PROCESSES, threads=WEB_THREADS
        )
        return self._spawn(place, *arguments, CHAOS_ENDS_WITH_PARENT="1")

    def spawn_follower(self) -> Process:
        return self._spawn_outside("-m", "tests.chaos.follower", str(self.feed))

    def spawn_producers(self, seed: int) -> list[Process]:
        owners = sorted({r.owner for r in self.recipients if r.owner is not None})
        producers = []
        for number, place in enumerate(self.servers.places, start=1):
            words = ["-m", "tests.chaos.producer", str(seed + number), self.causes_file(number)]
            producers.append(self._spawn(place, *words))
        for number, place in enumerate(self.servers.places, start=len(producers) + 1):
            site = f"http://{place.host.address}:{WEB_PORT}"
            words = [str(seed + number), site, self._token, self.causes_file(number), *owners]
            producers.append(self._spawn_outside("-m", "tests.chaos.client", *words))
        return producers

    def place_of(self, worker: Process) -> Place:
        return self.servers.places[self.workers.index(worker)]

    def _spawn(self, place: Place, *arguments: str, **changes: str) -> Process:
        environment = {
            "DATABASE_URL": place.pooler.url,
            "CHAOS_NAMES": str(self.network.names),
            "PYTHONPATH": str(SITE),
            "CHAOS_MONOTONIC_SINCE": str(time.time() - time.monotonic()),
            **(place.clock.environment if place.clock else {}),
        }
        return place.host.spawn(
            sys.executable,
            *arguments,
            log=self.servers.log,
            environment=os.environ | environment | changes,
        )

    def _spawn_outside(self, *arguments: str) -> Process:
        return self.servers.outside.spawn(
            sys.executable, *arguments, log=self.servers.log, environment=os.environ
        )
