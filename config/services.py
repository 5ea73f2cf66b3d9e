"""Provide the database and Valkey: from the environment, or embedded servers in development."""

import os
from pathlib import Path

import environ

BASE_DIR = Path(__file__).resolve().parent.parent


def provide_services(directory: Path = BASE_DIR / "var" / "services") -> None:
    """With DEBUG, start embedded servers for a missing DATABASE_URL or REDIS_URL and set it.

    Child processes inherit the URLs. Does nothing without DEBUG, where the settings require both.
    """
    env = environ.Env()
    if not env.bool("DEBUG", default=False):
        return
    wants_postgres = "DATABASE_URL" not in os.environ
    wants_valkey = "REDIS_URL" not in os.environ
    if not (wants_postgres or wants_valkey):
        return
    from config.embedded import start_services

    services = start_services(directory, postgres=wants_postgres, valkey=wants_valkey)
    if wants_postgres:
        os.environ["DATABASE_URL"] = services.database_url
    if wants_valkey:
        os.environ["REDIS_URL"] = services.redis_url
