"""Databases of a producer and of cells, beside the tests' own, and what happens in them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from django.conf import settings

from cells.cellmap import CellMap
from cells.cluster import Cluster
from cells.consumer import Consumer
from cells.jetstream import JetStream
from cells.relay import Relay
from cells.slots import slot_of
from config import embedded
from config.services import BASE_DIR
from tests import clusters
from webhooks import service
from webhooks.ids import new_id

MIGRATIONS = [
    path.read_bytes()
    for app in ("cells", "webhooks", "projects", "sessions_app")
    for path in sorted((BASE_DIR / app / "migrations").glob("*.py"))
]
TEMPLATE = f"cells_template_{hashlib.sha256(b''.join(MIGRATIONS)).hexdigest()[:8]}"
# Not by the model, whose save would cause an event.
ADD_USER = """
INSERT INTO projects_user
       (id, username, email, name, first_name, last_name, password, storage_quota_bytes,
        is_active, is_staff, is_superuser, date_joined)
VALUES (%(id)s, %(name)s::text, %(name)s::text || '@example.com', %(name)s::text, '', '', '', 1000000,
        true, false, false, now())
"""
STREAMS = 2
PAID = {"subscriptionId": None, "paidAt": "2026-11-23T10:30:00.000Z"}
CELLS = {"a": "https://a.example.com", "b": "https://b.example.com"}


class World:
    """Databases in the cluster of the tests, one per name, and a log."""

    def __init__(self, cluster: Cluster, log: JetStream) -> None:
        self.cluster = cluster
        self.log = log
        self.server = clusters.Cluster(Path(clusters.host()))
        log.create(STREAMS)
        log.write_map(CellMap.of(STREAMS, CELLS).to_json(), 0)

    def url(self, name: str) -> str:
        host = quote(str(self.server.home))
        return f"postgres:///cells_{name}?host={host}&user={embedded.DATABASE}"

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a process of a cell, or of the producer."""
        return os.environ | {
            "DATABASE_URL": self.url(name),
            "CELLS_NATS_URL": self.cluster.url,
            "CELL_NAME": name if name in CELLS else "",
            "CELLS_DATABASES": self.databases_json(),
            "REDIS_URL": settings.REDIS_URL,
            "WEBHOOKS_WAKEUP": "poll",
        }

    def make_databases(self) -> None:
        with self.server.connect() as maintenance:
            names = maintenance.execute("SELECT datname FROM pg_database").fetchall()
            if (TEMPLATE,) not in names:
                maintenance.execute(f"CREATE DATABASE {TEMPLATE}")
                migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
                subprocess.run(
                    migrate,
                    cwd=BASE_DIR,
                    env=self.environment(TEMPLATE.removeprefix("cells_")),
                    check=True,
                )
            self.drop()
            for name in ("producer", *CELLS):
                maintenance.execute(f"CREATE DATABASE cells_{name} TEMPLATE {TEMPLATE}")

    def drop(self) -> None:
        """Drop the databases, except for the template."""
        with self.server.connect() as maintenance:
            for name in ("producer", *CELLS):
                maintenance.execute(f"DROP DATABASE IF EXISTS cells_{name} WITH (FORCE)")

    def inside(self, name: str) -> Any:
        """Let Django use a database until the block ends."""
        return clusters.connected_to(self.server, f"cells_{name}")

    def rows(self, name: str, sql: str) -> list[tuple[Any, ...]]:
        with self.server.connect(f"cells_{name}") as connection:
            return connection.execute(sql).fetchall()

    # What happens.

    def add_owner(self, name: str, slot: int | None = None) -> UUID:
        """Make a user, of this slot, whom the producer and all cells know; return the id."""
        owner_id = new_id()
        while slot is not None and slot_of(owner_id) != slot:
            owner_id = new_id()
        for place in ("producer", *CELLS):
            with self.server.connect(f"cells_{place}") as connection:
                connection.execute(ADD_USER, {"id": owner_id, "name": name})
        return owner_id

    def trigger(self, owner: Any, count: int, first: int = 0) -> list[str]:
        """Store events in the producer's database and return their ids."""
        with self.inside("producer"):
            return [
                service.trigger_event(
                    "payment.succeeded", owner, payment(number), object_reference=f"p {number}"
                ).public_id
                for number in range(first, first + count)
            ]

    def relay(self) -> None:
        """Publish all events."""
        with self.inside("producer"):
            relay = Relay(self.log)
            while relay.step():
                pass

    def consume(self, cell: str, count: int) -> None:
        """Let a cell store so many new events, and then look for more."""
        deadline = time.monotonic() + 60
        with self.inside(cell), consuming(self.log, cell) as consumer:
            while count > 0:
                assert time.monotonic() < deadline, f"{count} are missing"
                count -= consumer.store(consumer.take())
            assert consumer.store(consumer.take()) == 0

    @contextmanager
    def running(self, place: str, action: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a relay or a consumer until the block ends, which kills it."""
        process = subprocess.Popen(
            [sys.executable, "manage.py", "cells", action],
            cwd=BASE_DIR,
            env=self.environment(place),
            preexec_fn=lambda: embedded.die_with_parent(signal.SIGKILL),
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def wait_for_stored(self, cell: str, count: int, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while len(self.stored(cell)) < count:
            assert time.monotonic() < deadline, f"{len(self.stored(cell))} of {count}"
            time.sleep(0.05)

    def move_command(self, slot: int, to: str) -> list[str]:
        return [sys.executable, "-u", "manage.py", "cells", "move", str(slot), "--to", to]

    def databases_json(self) -> str:
        return json.dumps({cell: self.url(cell) for cell in CELLS})

    def stored(self, cell: str) -> list[str]:
        """Return the ids of the events of a cell, in the order in which they were stored."""
        order = "SELECT id FROM webhooks_event ORDER BY transaction_id, sequence"
        return [f"evt_{id_.hex}" for (id_,) in self.rows(cell, order)]


@contextmanager
def consuming(log: JetStream, cell: str) -> Iterator[Consumer]:
    consumer = Consumer(log, cell)
    try:
        yield consumer
        consumer.note_read()
    finally:
        consumer.close()


def payment(number: int) -> dict[str, Any]:
    return {"id": f"pay_{number}", "amount": number, "currency": "EUR"} | PAID
