"""The wheel of the app alone, as `make package` builds it."""

import subprocess
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from benchmarks.starting import milliseconds
from config.services import BASE_DIR

PACKAGE = BASE_DIR / "webhooks"
MOST_ADDED = 150
"""Milliseconds of processor time."""


def test_the_package_depends_on_nothing_of_the_web_api() -> None:
    project = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]
    extras = ("djangorestframework", "unfold", "knox", "rq", "redis")

    assert not [name for name in project["dependencies"] if any(word in name for word in extras)]


@pytest.mark.slow
def test_make_package_builds_a_checked_wheel_with_every_file_of_the_app() -> None:
    made = subprocess.run(
        ["make", "package"], cwd=BASE_DIR, capture_output=True, text=True, check=False
    )

    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = (BASE_DIR / "var" / "dist").glob("remotedevai_webhooks-*.whl")
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("webhooks/")}
        others = {Path(name).parts[0] for name in archive.namelist()} - {"webhooks"}
    listed = subprocess.run(
        ["git", "ls-files", "webhooks"], cwd=BASE_DIR, capture_output=True, text=True, check=True
    )
    assert packed == set(listed.stdout.split())
    assert [name.endswith(".dist-info") for name in others] == [True]


@pytest.mark.slow
def test_the_app_adds_little_to_the_start_of_a_process() -> None:
    """Without any extra; the least of several, because a busy machine only ever adds."""
    rounds = [(milliseconds(), milliseconds("webhooks")) for _ in range(5)]

    alone, both = (min(each) for each in zip(*rounds, strict=True))
    assert 0 < both - alone <= MOST_ADDED, f"{both - alone:.0f} ms over Django's {alone:.0f}"
