"""Empty databases for foreign projects, on a Postgres of their own."""

import os
from urllib.parse import parse_qs, urlsplit

import psycopg

from config.embedded import start_services
from config.services import BASE_DIR


def new_database(name: str) -> dict[str, str]:
    """Make an empty database and return its address as Postgres's own variables."""
    services = start_services(BASE_DIR / "var" / "host-services", valkey=False)
    url = urlsplit(services.database_url)
    options = {key: values[0] for key, values in parse_qs(url.query).items()}
    server = {"host": options["host"], "user": options["user"]}
    name = f"{name}_{os.getpid()}"
    with psycopg.connect(dbname=url.path[1:], autocommit=True, **server) as connection:  # type: ignore[arg-type]
        connection.execute(f"CREATE DATABASE {name}")
    return {"PGHOST": server["host"], "PGUSER": server["user"], "PGDATABASE": name}
