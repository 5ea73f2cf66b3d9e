"""A foreign project, made from the wheel by docs/install.md in a fresh virtual environment."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.services import BASE_DIR
from tests.host_project.databases import new_database

PAGE = (BASE_DIR / "docs" / "install.md").read_text()
WHEEL = "var/dist/remotedevai_webhooks-1.0.0-py3-none-any.whl"
DELIVERY_SECONDS = 20
EVENTS = ["group.created", "group.updated", "order.created"]

# Each names the files and the packages of an extra.
EXTRAS = ("rest_framework", "unfold", "knox", "redis", "rq", "django_rq", "drf_spectacular")


def steps(port: int, wheel: Path) -> str:
    """Return the page's blocks as one shell script; a python block writes the file that it names."""
    script = ["set -e"]
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, re.M | re.S):
        text = block.replace("127.0.0.1:9000", f"127.0.0.1:{port}").replace(WHEEL, str(wheel))
        text = text.replace("manage.py receiver ", f"manage.py receiver --port {port} ")
        if language == "python":
            path = text.split("\n", 1)[0].removeprefix("# ")
            into = ">>" if path.endswith("settings.py") else ">"
            text = f"cat {into} {path} <<'END_OF_FILE'\n{text}END_OF_FILE"
        script.append(text)
        if "manage.py receiver" in text:
            script.append("until grep -q Listening receiver.log; do kill -0 %1; sleep 0.05; done")
    return "\n".join([*script, "wait"])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A fresh virtual environment and an empty database, as variables."""
    home = tmp_path_factory.mktemp("host")
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    kept = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_"))}
    return {
        **kept,
        **new_database("host"),
        "PATH": f"{home / 'venv' / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="module")
def project(environment: dict[str, str]) -> Iterator[Path]:
    """The project of the page, with its receiver and its worker running."""
    home = Path(environment["HOME"])
    subprocess.run(["make", "package"], cwd=BASE_DIR, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = steps(port, BASE_DIR / WHEEL)
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


@pytest.mark.slow
def test_the_page_leads_to_verified_deliveries(project: Path) -> None:
    """Of a model of its own and of Django's groups, whose owners have integer keys."""
    received, log = project / "receiver.log", project.parent / "steps.log"
    ends_at = time.monotonic() + 240
    lines: list[str] = []
    while (
        len(lines) < len(EVENTS)
        and time.monotonic() < ends_at
        and "Traceback" not in log.read_text()
    ):
        lines = [line for line in read(received).splitlines() if "evt_" in line]
        time.sleep(0.1)

    assert sorted(line.split()[1] for line in lines) == EVENTS, log.read_text()
    assert all("v1 ok" in line for line in lines)


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
