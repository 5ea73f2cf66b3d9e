"""More clusters of Postgres beside the tests' own, and moves of the tests' database to them."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from django.db import connection

from config import embedded

START_SECONDS = 60


def host() -> str:
    """Return the folder of the socket that Django's connection goes to."""
    settings = connection.settings_dict
    return str(settings["HOST"] or settings["OPTIONS"]["host"])


def program(name: str, *arguments: str, cwd: Path = Path("/")) -> None:
    """Run one of Postgres' programs to its end, as the user that owns the clusters."""
    uid = embedded.server_uid()
    subprocess.run(
        [binaries() / name, *arguments],
        check=True,
        cwd=cwd,
        user=uid if uid != os.getuid() else None,
        extra_groups=[] if uid != os.getuid() else None,
        stdout=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )


def binaries() -> Path:
    """Return the folder of Postgres' programs."""
    if "TEST_DATABASE_URL" in os.environ:
        pytest.skip("TEST_DATABASE_URL names a server whose programs are not at hand.")
    services = parse_qs(urlsplit(os.environ["DATABASE_URL"]).query)
    return embedded.postgres_binaries(Path(services["host"][0]))


@contextmanager
def folder() -> Iterator[Path]:
    """A folder with a short path that Postgres' user owns; it is removed when the block ends."""
    path = Path(tempfile.mkdtemp(prefix="cluster-"))
    os.chown(path, embedded.server_uid(), -1)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@dataclass(frozen=True)
class Cluster:
    """A server that runs."""

    home: Path

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Open a connection that commits by itself; use it in a `with` block."""
        return psycopg.connect(
            host=str(self.home), user=embedded.DATABASE, dbname=database, autocommit=True
        )


@contextmanager
def new_cluster(**options: str) -> Iterator[Cluster]:
    """Make and run a cluster as young as they come."""
    with folder() as home:
        initialise(home)
        with running(home, options) as cluster:
            yield cluster


def initialise(home: Path) -> None:
    """Make a cluster in a folder that Postgres' user owns."""
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    data, user = str(home / "pgdata"), embedded.DATABASE
    program("initdb", "-D", data, "-U", user, "-A", "trust", "-E", "UTF8", "-N", *locale)


@contextmanager
def upgraded() -> Iterator[Cluster]:
    """Copy the tests' cluster and upgrade the copy, to the same version, and run the outcome."""
    with folder() as old, folder() as new:
        with standby(old) as copy, copy.connect() as maintenance:
            maintenance.execute("SELECT pg_promote()")
        initialise(new)
        directories = ["-d", str(old / "pgdata"), "-D", str(new / "pgdata")]
        programs = ["-b", str(binaries()), "-B", str(binaries()), "-s", str(new)]
        program("pg_upgrade", "-U", embedded.DATABASE, "-N", *directories, *programs, cwd=new)
        with running(new, {}) as cluster:
            yield cluster


@contextmanager
def standby(home: Path) -> Iterator[Cluster]:
    """Copy the tests' cluster, as it is now, into a folder() and run it as a standby.

    Nothing that is committed later reaches it.
    """
    data, user = str(home / "pgdata"), embedded.DATABASE
    program("pg_basebackup", "-D", data, "-h", host(), "-U", user, "-c", "fast", "-N")
    (home / "pgdata" / "standby.signal").touch()
    os.chown(home / "pgdata" / "standby.signal", embedded.server_uid(), -1)
    with running(home, {}) as cluster:
        yield cluster


@contextmanager
def running(home: Path, options: dict[str, str]) -> Iterator[Cluster]:
    options = {"listen_addresses": "", "unix_socket_directories": str(home)} | options
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    command = [str(binaries() / "postgres"), "-D", str(home / "pgdata"), *words]
    server = embedded.spawn_server(home, "postgres", command, uid=embedded.server_uid())
    cluster = Cluster(home)
    try:
        wait_for(cluster, server)
        yield cluster
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(START_SECONDS)


def wait_for(cluster: Cluster, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers; fails with its log when it ends first."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with cluster.connect():
                return
        except psycopg.OperationalError:
            alive = server.poll() is None and time.monotonic() < deadline
            assert alive, (cluster.home / "postgres.log").read_text()
        time.sleep(0.02)


@contextmanager
def connected_to(cluster: Cluster, database: str) -> Iterator[None]:
    """Let Django's connection, and the workers that tests start, use another database."""
    before = connection.settings_dict.copy()
    connection.close()
    connection.settings_dict |= {
        "NAME": database,
        "HOST": str(cluster.home),
        "USER": embedded.DATABASE,
        "OPTIONS": before["OPTIONS"] | {"host": str(cluster.home)},
    }
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict |= before


@contextmanager
def dump(*options: str) -> Iterator[Path]:
    """A dump of the database that Django's connection goes to; `options` are those of pg_dump."""
    with folder() as home:
        file, name = home / "dump", connection.settings_dict["NAME"]
        where = ["-h", host(), "-U", embedded.DATABASE, name]
        program("pg_dump", "-Fc", "-f", str(file), *options, *where)
        yield file


def restore(file: Path, cluster: Cluster, database: str) -> None:
    """Make a database from a dump."""
    with cluster.connect() as maintenance:
        maintenance.execute(f'CREATE DATABASE "{database}" TEMPLATE template0')
    program(
        "pg_restore", "-h", str(cluster.home), "-U", embedded.DATABASE, "-d", database, str(file)
    )


BURN_SQL = """
DO $$ BEGIN FOR step IN 1..{count} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$
"""


def burn_transaction_ids(count: int) -> None:
    """Let the cluster of Django's connection use so many transaction ids."""
    with connection.cursor() as cursor:
        cursor.execute(BURN_SQL.format(count=count))
