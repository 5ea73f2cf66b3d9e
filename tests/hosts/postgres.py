"""Postgres with a standby, each on a host of its own, and PgBouncer on the hosts of the product."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from config import embedded
from config.services import BASE_DIR
from tests.hosts.lab import NETWORK, POSTGRES_PORT, ROLE, Host, database_url, end, find, make_folder
from tests.workers import wait_until

USER = embedded.DATABASE
POOLER_PORT = 6432
START_SECONDS = 90
OPTIONS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_keep_size": "512MB",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A walreceiver whose sender vanished silently asks again.
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
    # A crash is over when we say so.
    "restart_after_crash": "off",
}
LOCALE = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
POOLER = """
[databases]
{name} = host={host} port={port} user={role}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {pooler_port}
unix_socket_dir =
auth_type = any
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
ignore_startup_parameters = extra_float_digits,options
# A server that vanished silently, as in a failover.
tcp_keepidle = 3
tcp_keepintvl = 1
tcp_keepcnt = 3
tcp_user_timeout = 5000
server_login_retry = 1
"""


class Server:
    """A cluster on a host."""

    def __init__(self, host: Host, folder: Path, binaries: Path, logs: Path) -> None:
        self.host = host
        self.home = make_folder(folder / host.name)
        self._binaries = binaries
        self._log = (logs / f"postgres-{host.name}.log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None
        self._port = POSTGRES_PORT
        self.login = "trust"
        """How the product's role proves who it is."""

    @property
    def _data(self) -> str:
        return str(self.home / "pgdata")

    @property
    def url(self) -> str:
        return f"postgres://{USER}@{self.host.address}:{self._port}/{USER}"

    def connect(self, database: str = USER) -> psycopg.Connection[Any]:
        """Connect to this very server; commits by itself."""
        return psycopg.connect(self.url, dbname=database, autocommit=True, connect_timeout=3)

    def initialise(self) -> None:
        self._run(
            "initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "-N", *LOCALE
        )
        with (self.home / "pgdata" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all {ROLE} {NETWORK}.0/24 {self.login}\n")
            for database in ("all", "replication"):
                rules.write(f"host {database} all {NETWORK}.0/24 trust\n")

    def copy(self, primary: "Server") -> None:
        """Become a standby of another server, whatever was here before."""
        shutil.rmtree(self._data, ignore_errors=True)
        source = ["-h", primary.host.address, "-U", USER, "-c", "fast", "-R"]
        self._run("pg_basebackup", "-D", self._data, *source)

    def start(self, port: int = POSTGRES_PORT) -> None:
        """Start it, on another port where no client is to find it."""
        self._port = port
        options = OPTIONS | {
            "port": str(port),
            "listen_addresses": self.host.address,
            "unix_socket_directories": str(self.home),
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", self._data, *words]
        self._process = self.host.spawn(*command, log=self._log, is_server=True)
        wait_until(self._answers, START_SECONDS)

    def stop(self, how: signal.Signals) -> None:
        """SIGINT shuts down in order, SIGQUIT crashes."""
        end(self._process, how)
        self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "Postgres ended; see var/hosts"
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        self.host.run(str(self._binaries / program), *arguments, log=self._log, is_server=True)


class Pair:
    """A primary and its standby, which change places."""

    def __init__(self, hosts: Sequence[Host], folder: Path, logs: Path) -> None:
        self.binaries = embedded.postgres_binaries(folder)
        self.primary, self.standby = (Server(host, folder, self.binaries, logs) for host in hosts)

    def start(self, *, is_synchronous: bool) -> None:
        self.primary.initialise()
        self.primary.start()
        with self.primary.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{USER}"')
        self.pair_up(is_synchronous=is_synchronous)

    def pair_up(self, *, is_synchronous: bool) -> None:
        """Make the standby anew and let the primary wait for it, or not."""
        self.standby.copy(self.primary)
        self.standby.start()
        with self.primary.connect("postgres") as primary:
            names = "*" if is_synchronous else ""
            primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
            primary.execute("SELECT pg_reload_conf()")
            state = "sync" if is_synchronous else "async"
            in_step = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = %s"
            deadline = time.monotonic() + START_SECONDS
            while primary.execute(in_step, [state]).fetchone() != (1,):
                assert time.monotonic() < deadline, "The standby does not follow."
                time.sleep(0.05)

    def migrate(self) -> None:
        """Make the tables and the product's role as docs/deployment.md says."""
        owner = database_url([self.primary.host], USER)
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
            cwd=BASE_DIR,
            env=os.environ | {"DATABASE_URL": owner},
            check=True,
        )
        with self.primary.connect("postgres") as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN")
        grants = ["--set", f"role={ROLE}", "--file", str(BASE_DIR / "deploy" / "grants.sql")]
        subprocess.run([self.binaries / "psql", owner, "--quiet", *grants], check=True)

    def unfinished(self) -> list[Any]:
        """Return the deliveries that the standby does not know to be finished, once it has read all
        that it was sent; the primary must be gone."""
        replayed = "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()"
        with self.standby.connect() as standby:
            while standby.execute(replayed).fetchone() != (True,):
                time.sleep(0.05)
            rows = standby.execute("SELECT id FROM webhooks_delivery WHERE finished_at IS NULL")
            return [row[0] for row in rows]

    def promote(self) -> None:
        """Let the standby be the primary, which waits for nobody."""
        with self.standby.connect("postgres") as standby:
            standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            standby.execute("SELECT pg_reload_conf()")
            assert standby.execute("SELECT pg_promote()").fetchone() == (True,)
        self.primary, self.standby = self.standby, self.primary

    def close(self) -> None:
        for server in (self.standby, self.primary):
            server.stop(signal.SIGQUIT)


@dataclass
class Pooler:
    """PgBouncer in transaction mode on a host of the product, for what runs there."""

    host: Host
    folder: Path
    logs: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgres://{ROLE}@127.0.0.1:{POOLER_PORT}/{USER}"

    def point_at(self, server: Host) -> None:
        """Lead to another server; tells PgBouncer, if it runs, as Patroni's callbacks do."""
        text = POOLER.format(
            name=USER,
            role=ROLE,
            host=server.address,
            port=POSTGRES_PORT,
            pooler_port=POOLER_PORT,
            folder=self.folder,
        )
        (self.folder / "users.txt").touch()
        (self.folder / "pgbouncer.ini").write_text(text)
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        program = find("pgbouncer")
        assert program is not None
        with (self.logs / f"pgbouncer-{self.host.name}.log").open("ab") as log:
            configuration = str(self.folder / "pgbouncer.ini")
            self._process = self.host.spawn(program, configuration, log=log, is_server=True)

    def kill(self) -> None:
        end(self._process, signal.SIGKILL)
        self._process = None
