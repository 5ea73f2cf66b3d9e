"""`make demo-cells`: a producer, a log of three nodes and two cells on loopback, to verified receipts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import psycopg

from cells.cluster import Cluster
from cells.slots import SLOTS, slot_of
from config.embedded import DATABASE, die_with_parent, start_services
from config.services import BASE_DIR
from webhooks.ids import new_id
from webhooks.workbench.receiver import HttpReceiver

CELLS = ("a", "b")
PLACES = ("producer", *CELLS)
OWNERS = 20
EVENTS = 2000
SECONDS = 120

# Of one owner, in his cell.
ADD_WEBHOOKS = """
import json, sys
from projects.models import User
from webhooks import service
owners, url, settings = json.loads(sys.stdin.read())
secrets = {}
for owner in owners:
    User(id=owner, username=owner, email=f"{owner}@example.com").save()
    webhook = service.create_webhook(owner, name="Demo", url=url, events=["payment.*"], **settings)
    secrets[owner] = webhook.secret
print(json.dumps(secrets))
"""
TRIGGER = """
import json, sys
from webhooks.service import Trigger, trigger_events
owners, count = json.loads(sys.stdin.read())
for first in range(0, count, 500):
    trigger_events(
        Trigger("payment.succeeded", owners[n % len(owners)], {
            "id": f"pay_{n}", "subscriptionId": None, "amount": n, "currency": "EUR",
            "paidAt": "2026-11-23T10:30:00.000Z"})
        for n in range(first, min(first + 500, count))
    )
"""


class Site:
    """The processes of a producer and its cells; `urls` are those of their databases."""

    def __init__(self, home: Path, nats_url: str, urls: Mapping[str, str], redis_url: str) -> None:
        self.home = home
        self.urls = urls
        shared = {
            "DEBUG": "1",
            "CELLS_NATS_URL": nats_url,
            "CELLS_DATABASES": json.dumps({cell: urls[cell] for cell in CELLS}),
            "WEBHOOKS_ALLOWED_NETWORKS": "127.0.0.0/8",
            "WEBHOOKS_WAKEUP": "listen",
            "REDIS_URL": redis_url,
        }
        self.environments = {
            name: os.environ
            | shared
            | {"DATABASE_URL": urls[name], "CELL_NAME": "" if name == "producer" else name}
            for name in PLACES
        }

    def manage(self, name: str, *arguments: str, text: str = "") -> str:
        """Run a command of manage.py to its end, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=BASE_DIR,
            env=self.environments[name],
            input=text,
            text=True,
            stdout=subprocess.PIPE,
            check=True,
        )
        return done.stdout

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of manage.py, which ends with this process."""
        with (self.home / f"{name}-{'-'.join(arguments)}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=BASE_DIR,
                env=self.environments[name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: die_with_parent(signal.SIGKILL),
            )

    def prepare(self, streams: int = 2) -> None:
        """Migrate the databases, and make the log's streams and map."""
        for name in PLACES:
            self.manage(name, "migrate", "--verbosity", "0")
        cells = [word for cell in CELLS for word in ("--cell", f"{cell}=http://{cell}.localhost")]
        self.manage("producer", "cells", "init", *cells, "--streams", str(streams))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a relay, and a consumer and a worker of each cell, until the block ends."""
        commands: list[tuple[str, ...]] = [("producer", "cells", "relay")]
        for cell in CELLS:
            commands += [(cell, "cells", "consume"), (cell, "webhooks_worker")]
        processes = [self.start(*command) for command in commands]
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


def owners_of_cells(count: int) -> dict[str, list[str]]:
    """Return new owners' ids by their cell, the same number for each."""
    found: dict[str, list[str]] = {cell: [] for cell in CELLS}
    while min(map(len, found.values())) < count // len(CELLS):
        owner: UUID = new_id()
        cell = CELLS[slot_of(owner) * len(CELLS) // SLOTS]
        if len(found[cell]) < count // len(CELLS):
            found[cell].append(str(owner))
    return found


def database_urls(home: Path) -> tuple[dict[str, str], str]:
    """Return the URLs of empty databases, in an embedded Postgres, and of a Valkey."""
    services = start_services(home)
    host = services.database_url.split("host=")[1].split("&")[0]
    with psycopg.connect(services.database_url, autocommit=True) as connection:
        for name in PLACES:
            connection.execute(f"DROP DATABASE IF EXISTS cells_{name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE cells_{name}")
    urls = {
        name: f"postgres:///cells_{name}?host={quote(host, safe='%')}&user={DATABASE}"
        for name in PLACES
    }
    return urls, services.redis_url


def main() -> int:
    home = BASE_DIR / "var" / "demo-cells"
    shutil.rmtree(home / "nats", ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        say("Starting three NATS nodes and Postgres, and migrating three databases ...")
        cluster = stack.enter_context(Cluster(home / "nats"))
        site = Site(home, cluster.url, *database_urls(home))
        site.prepare()
        owners = owners_of_cells(OWNERS)
        receivers = {cell: stack.enter_context(HttpReceiver()) for cell in CELLS}
        for cell, receiver in receivers.items():
            request = json.dumps([owners[cell], receiver.url, {"order": "all"}])
            secrets = json.loads(
                site.manage(cell, "shell", "-v", "0", "-c", ADD_WEBHOOKS, text=request)
            )
            receiver.secrets = list(secrets.values())
        stack.enter_context(site.running())
        everybody = [owner for pair in zip(*owners.values(), strict=True) for owner in pair]
        started_at = time.monotonic()
        site.manage(
            "producer", "shell", "-v", "0", "-c", TRIGGER, text=json.dumps([everybody, EVENTS])
        )
        while sum(len(one.requests) for one in receivers.values()) < EVENTS:
            if time.monotonic() - started_at > SECONDS:
                break
            time.sleep(0.05)
        seconds = time.monotonic() - started_at
        is_good = True
        for cell, receiver in receivers.items():
            ids = {one.event_id for one in receiver.requests}
            verified = sum(bool(one.standard_ok and one.hex_ok) for one in receiver.requests)
            is_good &= len(ids) == EVENTS // len(CELLS) == verified
            say(f"cell {cell}: {len(ids):,} events received, {verified:,} signatures verified")
        say(f"{EVENTS:,} events in {seconds:.1f} s, from the transaction to the receipt.")
        say(site.manage("a", "cells"))
    return 0 if is_good else 1


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
