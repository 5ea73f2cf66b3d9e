"""A worker refuses to start where it could not keep its guarantees, and says how to fix it."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.services import BASE_DIR
from tests.workers import environment
from webhooks.dispatch import life
from webhooks.dispatch.flight import MAX_IN_FLIGHT
from webhooks.repair import doctor
from webhooks.repair.findings import Finding, failure
from webhooks.worker import preflight

pytestmark = pytest.mark.django_db(transaction=True)


def start_worker(files: tuple[int, int] | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, files)

    return subprocess.run(
        [sys.executable, "manage.py", "rqworker", "--burst"],
        cwd=BASE_DIR,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=limit,
    )


def test_this_machine_passes_the_preflight_checks() -> None:
    assert preflight.refusals() == []


def test_check_of_another_app_keeps_no_worker_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check_cells() -> Iterator[Finding]:
        yield failure("cells", "The log does not answer.", "Start it")

    monkeypatch.setattr(doctor, "added_checks", [check_cells])

    assert preflight.refusals() == []
    assert [one.check for one in doctor.examine() if one.check == "cells"] == ["cells"]


def test_evicting_valkey_is_only_logged(evicting_valkey: None) -> None:
    finished = start_worker()

    assert finished.returncode == 0
    assert (
        "WARNING webhooks.worker.preflight [-]: Valkey evicts keys, including jobs, when its memory is full"
        in finished.stderr
    )
    assert "valkey-cli CONFIG SET maxmemory-policy noeviction" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_worker_refuses_too_few_open_files() -> None:
    finished = start_worker(files=(512, 512))

    assert finished.returncode == 1
    assert (
        "The limit of open files is 512; a worker needs 1,664. To fix it: Run ulimit -n 1664"
        in (finished.stderr)
    )


def test_worker_raises_a_soft_limit_of_open_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert preflight.refusals() == []
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > MAX_IN_FLIGHT
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_heartbeats_must_fit_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "SILENCE_BEFORE_DEATH_SECONDS", 5.0)

    (refusal,) = preflight.refusals()

    assert refusal.startswith("A worker sends a heartbeat every 2 s and counts as dead after 5 s")


@pytest.mark.parametrize(
    ("limit", "is_refused"), [("104857600\n", True), ("2147483648\n", False), ("max\n", False)]
)
def test_memory_limit_must_leave_room(
    limit: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "memory.max"
    path.write_text(limit)
    monkeypatch.setattr(preflight, "MEMORY_LIMITS", (tmp_path / "absent", path))

    refusals = preflight.refusals()

    assert bool(refusals) == is_refused
    assert all(r.startswith("The memory limit is 100 MB") for r in refusals)
