"""Short runs of what `make hosts` does, and that nothing of a run stays behind."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from config.services import BASE_DIR
from tests.hosts import lab, trial
from tests.workers import wait_until

COMMAND = [sys.executable, "-m", "tests.hosts"]
END_SECONDS = 400


@pytest.fixture(autouse=True)
def _possible() -> None:
    if reason := lab.missing():
        pytest.skip(reason)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
        check=False,
    )


def left_behind() -> dict[str, str]:
    """What a run could change of the machine."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True)
    return {
        "links": links.stdout,
        "mounts": Path("/proc/self/mounts").read_text(),
        "names": str(sorted(Path("/run").glob("netns/*"))),
    }


@pytest.mark.full
def test_nothing_is_lost_when_hosts_and_servers_go_away(tmp_path: Path) -> None:
    finished = run("--minutes", "1", "--faults", "cut_host_off,promote_standby,kill_valkey_primary")

    assert finished.returncode == 0, finished.stdout + finished.stderr[-2000:]
    assert "Nothing was lost" in finished.stdout


@pytest.mark.full
def test_asynchronous_failover_loses_the_tail_that_the_doctor_names(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    finished = run("--asynchronous", "--minutes", "0.5", "--json", str(figures))

    assert finished.returncode == 0, finished.stdout + finished.stderr[-2000:]
    assert json.loads(figures.read_text())["transactions"]["forgotten"] > 0


@pytest.mark.full
def test_deployment_page_leads_to_a_delivery_a_dashboard_and_an_alert() -> None:
    if reason := trial.missing():
        pytest.skip(reason)

    finished = subprocess.run(
        [*COMMAND[:-1], "tests.hosts.trial"],
        cwd=BASE_DIR, capture_output=True, text=True, timeout=END_SECONDS, check=False,
    )  # fmt: skip

    assert finished.returncode == 0, finished.stdout + finished.stderr[-2000:]


def test_killed_run_leaves_nothing_behind() -> None:
    before = left_behind()
    with subprocess.Popen(
        COMMAND, cwd=BASE_DIR, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:

        def started() -> list[psutil.Process]:
            return psutil.Process(process.pid).children(recursive=True)

        wait_until(lambda: any("valkey-server" in one.name() for one in started()))
        everything = started()
        process.send_signal(signal.SIGKILL)

    wait_until(lambda: not any(one.is_running() for one in everything))
    assert left_behind() == before
