"""The Postgres of a chaos run: clusters one after the other behind one address.

The address is a folder with a link to the socket of the cluster that serves. While the link is gone
the run's processes find nobody there, so that what a crash or a move left behind can be looked at
before anybody changes it.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from config import embedded
from tests import clusters

SOCKET = ".s.PGSQL.5432"
START_SECONDS = 90
OPTIONS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "256MB",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A crash is over when we say so.
    "restart_after_crash": "off",
}


class Postgres:
    """The clusters of a run; only the thread that made this may start servers (they end with it)."""

    def __init__(self, folder: Path, public: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._public = public
        self._environment = environment
        self._number = 0
        self._server: subprocess.Popen[bytes] | None = None
        self.url = (
            f"postgres:///{embedded.DATABASE}?host={quote(str(public))}&user={embedded.DATABASE}"
        )

    # The address.

    @property
    def address(self) -> Path:
        return self._public / SOCKET

    def open(self) -> None:
        self.address.unlink(missing_ok=True)
        self.address.symlink_to(self.home / SOCKET)

    def close(self) -> None:
        """Let nobody in; who is connected stays."""
        self.address.unlink(missing_ok=True)

    # The cluster that serves.

    @property
    def home(self) -> Path:
        """The folder of the cluster that serves, and of its socket."""
        return self._home(self._number)

    def connect(self, database: str = embedded.DATABASE) -> psycopg.Connection[Any]:
        """Connect past the address; commits by itself."""
        return psycopg.connect(
            host=str(self.home), user=embedded.DATABASE, dbname=database, autocommit=True
        )

    @property
    def is_alive(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def start_first(self) -> None:
        self._initialise()
        self._number += 1
        self.start()
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{embedded.DATABASE}"')
        self.open()

    def start(self) -> None:
        """Start the cluster that serves, and wait until it answers."""
        self._server = self._run(self.home)

    def stop(self, how: signal.Signals) -> None:
        """SIGINT shuts down in order, SIGQUIT crashes."""
        assert self._server is not None
        self._server.send_signal(how)
        self._server.wait(START_SECONDS)

    # Moves.

    def move_by_dump(self) -> None:
        """Restore a dump into a new, younger cluster, which serves from then on."""
        old, dump, name = self.home, self._folder / "dump", embedded.DATABASE
        clusters.program("pg_dump", "-Fc", "-h", str(old), "-U", name, "-f", str(dump), name)
        self.stop(signal.SIGINT)
        self._initialise()
        self._number += 1
        self.start()
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        clusters.program("pg_restore", "-h", str(self.home), "-U", name, "-d", name, str(dump))
        dump.unlink()
        shutil.rmtree(old)

    def move_by_promotion(self) -> None:
        """Kill the server and promote a standby, which has got every commit that was confirmed."""
        old, new = self.home, self._home(self._number + 1)
        self._make_home(new)
        source = ["-h", str(old), "-U", embedded.DATABASE]
        clusters.program("pg_basebackup", "-D", str(new / "pgdata"), *source, "-c", "fast", "-R")
        standby = self._run(new)
        with self.connect("postgres") as primary:
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.execute("SELECT pg_reload_conf()")
            in_step = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            while primary.execute(in_step).fetchone() != (1,):
                time.sleep(0.05)
        # Some commits that wait for the standby.
        time.sleep(1)
        self.close()
        self.stop(signal.SIGQUIT)
        self._number += 1
        self._server = standby
        with self.connect("postgres") as maintenance:
            maintenance.execute("SELECT pg_promote()")
        shutil.rmtree(old)

    def _home(self, number: int) -> Path:
        return self._folder / f"c{number}"

    def _make_home(self, home: Path) -> None:
        home.mkdir(mode=0o711)
        os.chown(home, embedded.server_uid(), -1)

    def _initialise(self) -> None:
        home = self._home(self._number + 1)
        self._make_home(home)
        clusters.initialise(home)

    def _run(self, home: Path) -> subprocess.Popen[bytes]:
        options = OPTIONS | {"unix_socket_directories": str(home)}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        settings = [f"{name}={value}" for name, value in self._environment.items()]
        program = [str(clusters.binaries() / "postgres"), "-D", str(home / "pgdata"), *words]
        server = embedded.spawn_server(
            home, "postgres", ["/usr/bin/env", *settings, *program], uid=embedded.server_uid()
        )
        clusters.wait_for(clusters.Cluster(home), server)
        return server
