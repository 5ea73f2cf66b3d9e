"""`make matrix`: the wheel with each Python, Django and Postgres that can be had here.

Each cell is a fresh virtual environment and an empty database, in which the project `teams` migrates
and runs its scenarios. Prints a table for docs/install.md, which also says what cannot be had.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from config.services import BASE_DIR
from tests.host_project.databases import create_database, installed_postgres, new_database

PROJECT = Path(__file__).parent / "teams"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
DJANGOS = ("4.2", "5.1", "5.2", "6.0", "6.1")
POSTGRES = Path("/usr/lib/postgresql")
"""Where Debian's packages are; the wheel's Postgres is the newest one."""


@dataclass
class Cell:
    python: str
    django: str
    database: dict[str, str]
    result: str = ""


def interpreter(version: str) -> str | None:
    """Return the path of a Python of this version."""
    pyenv = Path("~/.pyenv/versions").expanduser()
    found = [str(one / "bin" / "python") for one in sorted(pyenv.glob(f"{version}.*"))]
    if path := shutil.which(f"python{version}"):
        found.append(path)
    for path in found:
        asked = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        if told == version:
            return path
    return None


def run(cell: Cell, *command: str, cwd: Path, **more: str) -> str:
    """Run a command of a cell; raises RuntimeError with the last line that it printed."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    environment = {"PATH": os.environ["PATH"], **kept, **cell.database, **more}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it failed"]
        wrong = [line for line in lines if line.startswith("ERROR: Could not")] or lines[-1:]
        raise RuntimeError(wrong[0][:200])
    return done.stdout.strip()


def try_out(cell: Cell, wheel: Path) -> str:
    """Return the versions with which the scenarios passed; raises RuntimeError."""
    path = interpreter(cell.python)
    if path is None:
        raise RuntimeError(f"Python {cell.python} is not installed")
    with tempfile.TemporaryDirectory() as home:
        subprocess.run([path, "-m", "venv", f"{home}/venv"], check=True, capture_output=True)
        python = f"{home}/venv/bin/python"
        wanted = [f"django~={cell.django}.0", str(wheel)]
        run(
            cell,
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            *wanted,
            cwd=Path(home),
        )
        project = Path(shutil.copytree(PROJECT, f"{home}/teams"))
        run(cell, python, "manage.py", "makemigrations", "teams", cwd=project)
        run(cell, python, "manage.py", "migrate", "-v", "0", cwd=project)
        for scenario in ("scenario", "scenario_admin"):
            run(cell, python, "run.py", scenario, cwd=project)
        return run(
            cell, python, "-c", "import django, platform; print(platform.python_version(), django.__version__)",
            cwd=project,
        )  # fmt: skip


def version_of(database: dict[str, str]) -> str:
    with psycopg.connect(
        host=database["PGHOST"], user=database["PGUSER"], dbname=database["PGDATABASE"]
    ) as connection:
        return str(connection.execute("SHOW server_version").fetchone()[0]).split()[0]  # type: ignore[index]


def main() -> Iterator[str]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="*", default=PYTHONS)
    parser.add_argument("--django", nargs="*", default=DJANGOS)
    parser.add_argument("--wheels", type=Path, default=BASE_DIR / "var" / "dist")
    parser.add_argument("--postgres", help="A version of Debian's, such as 15; else the wheel's.")
    options = parser.parse_args()
    server = POSTGRES / str(options.postgres) / "bin"
    if options.postgres and not server.exists():
        yield f"Postgres {options.postgres} is not installed (apt-get install postgresql-{options.postgres})."
        return
    with installed_postgres(server) if options.postgres else nullcontext() as address:
        yield from rows(options, address)


def rows(options: argparse.Namespace, address: dict[str, Any] | None) -> Iterator[str]:
    (wheel,) = options.wheels.resolve().glob("remotedevai_webhooks-*.whl")
    yield "| Python | Django | Postgres | result |"
    yield "| --- | --- | --- | --- |"
    for python in options.python:
        for django in options.django:
            name = f"matrix_{python}_{django}".replace(".", "_")
            database = create_database(name, "postgres", address) if address else new_database(name)
            cell = Cell(python, django, database)
            try:
                python_version, django_version = try_out(cell, wheel).split()
                result = "passed"
            except RuntimeError as problem:
                python_version, django_version, result = python, django, str(problem)
            yield f"| {python_version} | {django_version} | {version_of(database)} | {result} |"


if __name__ == "__main__":
    for line in main():
        print(line, flush=True)  # noqa: T201
