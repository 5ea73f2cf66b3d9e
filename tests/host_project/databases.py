"""Empty databases for foreign projects, on a Postgres of their own."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

from config.embedded import start_services
from config.embedded.places import server_uid
from config.services import BASE_DIR


def new_database(name: str) -> dict[str, str]:
    """Make an empty database and return its address as Postgres's own variables."""
    services = start_services(BASE_DIR / "var" / "host-services", valkey=False)
    url = urlsplit(services.database_url)
    options = {key: values[0] for key, values in parse_qs(url.query).items()}
    server: dict[str, Any] = {"host": options["host"], "user": options["user"]}
    name = f"{name}_{os.getpid()}"
    return create_database(name, url.path[1:], server)


def create_database(name: str, beside: str, server: dict[str, Any]) -> dict[str, str]:
    with psycopg.connect(dbname=beside, autocommit=True, **server) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return {"PGHOST": server["host"], "PGUSER": server["user"], "PGDATABASE": name}


@contextmanager
def installed_postgres(binaries: Path) -> Iterator[dict[str, Any]]:
    """Run an empty server from a folder of Postgres's programs, and yield its address."""
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        uid = server_uid()
        os.chown(home, uid, -1)
        make: list[str | Path] = [
            binaries / "initdb",
            "-D",
            f"{home}/data",
            "-U",
            "host",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        subprocess.run([*make, "--locale=C"], user=uid, check=True, capture_output=True)
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={home}"]
        server = subprocess.Popen(
            [binaries / "postgres", "-D", f"{home}/data", *options],
            user=uid,
            stderr=subprocess.DEVNULL,
        )
        try:
            address = {"host": home, "user": "host"}
            while not _answers(address):
                assert server.poll() is None, "Postgres ended."
                time.sleep(0.1)
            yield address
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def _answers(address: dict[str, Any]) -> bool:
    try:
        psycopg.connect(dbname="postgres", **address).close()
    except psycopg.OperationalError:
        return False
    return True
