"""A foreign project in which teams own webhooks, with each kind of key."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from config.services import BASE_DIR
from tests.host_project.databases import new_database

PROJECT = Path(__file__).parent / "teams"


def run(project: Path, environment: Mapping[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=dict(environment), capture_output=True,
        text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK" in done.stderr or arguments[0] != "run.py"


@pytest.mark.slow
@pytest.mark.parametrize("key", ["bigint", "uuid", "text"])
def test_teams_own_webhooks(key: str, tmp_path: Path) -> None:
    # A copy, because the migrations of its own app differ with the kind of key.
    project = Path(shutil.copytree(PROJECT, tmp_path / "teams"))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(BASE_DIR),
        "TEAM_KEY": key,
        **new_database(f"teams_{key}"),
    }
    run(project, environment, "manage.py", "makemigrations", "teams")
    run(project, environment, "manage.py", "check")
    run(project, environment, "manage.py", "migrate", "-v", "0")
    run(project, environment, "run.py", "scenario")
    run(project, environment, "run.py", "scenario_admin")
    run(project, environment | {"TEAM_API": "1"}, "run.py", "scenario_api")
    # The migrations fit the models with these keys and owners too.
    run(project, environment, "manage.py", "makemigrations", "--check", "--dry-run")
