"""A short run of the chaos that `make chaos` brings for as long as one likes."""

import subprocess
import sys

import pytest

from config.services import BASE_DIR

SEED = 1


@pytest.mark.parametrize("minutes", [0.4, pytest.param(3, marks=pytest.mark.full)])
def test_nothing_is_lost_and_nothing_sent_that_was_rolled_back(minutes: float) -> None:
    command = ["-m", "tests.chaos", "--seed", str(SEED), "--minutes", str(minutes)]
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        timeout=minutes * 60 + 400,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr[-2000:]
    assert "Nothing was lost" in finished.stdout
