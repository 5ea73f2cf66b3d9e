"""A foreign project, made from the wheel by docs/install.md in a fresh virtual environment."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from config.services import BASE_DIR

PAGE = (BASE_DIR / "docs" / "install.md").read_text()
FIRST_DELIVERY, _, MORE = PAGE.partition("## What the settings were")
WHEEL = "var/dist/remotedevai_webhooks-1.0.0-py3-none-any.whl"
MOST_LINES = 15
"""That somebody writes before the first verified delivery."""
EVENTS = {"receiver": ["order.created"], "operators": ["group.created", "group.updated"]}

# Each names the files and the packages of an extra.
EXTRAS = ("rest_framework", "unfold", "knox", "redis", "rq", "django_rq", "drf_spectacular")


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the language and the text of each block that is run."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.M | re.S)


def written_lines(text: str) -> list[str]:
    """Return the lines of Python that the blocks ask somebody to write, in files and in the shell."""
    parts = [
        block
        if language == "python"
        else "\n".join(re.findall(r'-c "\n(.*?)^"', block, re.M | re.S))
        for language, block in blocks(text)
    ]
    lines = [line for part in parts for line in part.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def steps(ports: dict[str, int], wheel: Path) -> str:
    """Return the page's blocks as one shell script; a python block writes the file that it names."""
    script = ["set -e"]
    for language, block in blocks(PAGE):
        text = block.replace(WHEEL, str(wheel))
        text = text.replace(
            "manage.py receiver --secret", "manage.py receiver --port 9000 --secret"
        )
        for name, port in ports.items():
            text = text.replace(name, str(port))
        if language == "python":
            path = text.split("\n", 1)[0].removeprefix("# ")
            into = ">>" if path.endswith("settings.py") else ">"
            text = f"cat {into} {path} <<'END_OF_FILE'\n{text}END_OF_FILE"
        script.append(text)
        if log := re.search(r"manage.py receiver .*> (\w+.log) &", text):
            script.append(f"until grep -q Listening {log[1]}; do kill -0 $!; sleep 0.05; done")
    return "\n".join([*script, "wait"])


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A fresh virtual environment, as variables."""
    # Not pytest's folder, which Postgres's user could not enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        Path(home).chmod(0o755)
        subprocess.run([sys.executable, "-m", "venv", f"{home}/venv"], check=True)
        kept = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_"))}
        yield {
            **kept,
            "PATH": f"{home}/venv/bin:{os.environ['PATH']}",
            "HOME": home,
            "PYTHONUNBUFFERED": "1",
        }


def free_ports(*names: str) -> dict[str, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}


@pytest.fixture(scope="module")
def project(environment: dict[str, str]) -> Iterator[Path]:
    """The project of the page, with its receivers, its worker and its Postgres running."""
    home = Path(environment["HOME"])
    subprocess.run(["make", "package"], cwd=BASE_DIR, check=True, capture_output=True)
    script = steps(free_ports("9000", "9001"), BASE_DIR / WHEEL)
    with (home / "steps.log").open("wb") as log:
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=home, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield home / "shop"
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(30)
            stop = ["python", "manage.py", "webhooks_postgres", "--stop"]
            subprocess.run(stop, cwd=home / "shop", env=environment, check=True)


def test_few_lines_lead_to_the_first_delivery() -> None:
    lines = written_lines(FIRST_DELIVERY)

    assert len(lines) <= MOST_LINES, "\n".join(lines)
    assert max(map(len, lines)) <= 100
    assert f"takes {len(lines)} lines to write" in MORE


@pytest.mark.slow
def test_the_page_leads_to_verified_deliveries(project: Path) -> None:
    """Of a model of its own and of Django's groups, whose owners have integer keys."""
    log = project.parent / "steps.log"
    ends_at = time.monotonic() + 240
    found: dict[str, list[str]] = {}
    while (
        [len(lines) for lines in found.values()] != [len(types) for types in EVENTS.values()]
        and time.monotonic() < ends_at
        and not re.search("Traceback|Error", read(log))
    ):
        found = {
            name: [line for line in read(project / f"{name}.log").splitlines() if "evt_" in line]
            for name in EVENTS
        }
        time.sleep(0.1)

    told = {name: sorted(line.split()[1] for line in lines) for name, lines in found.items()}
    assert told == EVENTS, log.read_text()
    assert all("v1 ok" in line for lines in found.values() for line in lines)


@pytest.mark.slow
def test_the_app_needs_no_package_of_an_extra(project: Path, environment: dict[str, str]) -> None:
    # The other test has waited for the installation.
    test_the_page_leads_to_verified_deliveries(project)
    wanted = subprocess.run(
        ["python", "-c", f"import importlib.util as i; print([n for n in {EXTRAS!r} if i.find_spec(n)])"],
        env=environment, cwd=project, capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = subprocess.run(
        ["python", "manage.py", "shell", "-v", "0", "-c", "import sys, webhooks.outbox.store; print('pycurl' in sys.modules)"],
        env=environment, cwd=project, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert wanted.stdout.strip() == "[]"
    assert loaded.stdout.strip() == "False"


@pytest.mark.slow
def test_check_names_an_owner_key_of_another_type(
    project: Path, environment: dict[str, str]
) -> None:
    test_the_page_leads_to_verified_deliveries(project)
    (project / "wrong_settings.py").write_text(
        'from shop.settings import *\nWEBHOOKS_OWNER_KEY = "uuid"\n'
    )

    checked = subprocess.run(
        ["python", "manage.py", "check", "--settings", "wrong_settings"],
        env=environment, cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert checked.returncode == 1
    assert "webhooks.E102" in checked.stderr


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
