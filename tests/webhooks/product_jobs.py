"""What a product might have RQ do; workers in tests run these by WEBHOOKS_JOB_MODULES."""

import subprocess
import time
from pathlib import Path
from typing import Any


def note(path: str, text: str = "ran") -> str:
    with Path(path).open("a") as file:
        file.write(text + "\n")
    return text


def work(path: str, seconds: float) -> str:
    """Note the beginning and the end; in between it is where no exception reaches it."""
    note(path, "started")
    time.sleep(seconds)
    return note(path, "ended")


def fail(path: str) -> None:
    note(path)
    raise ValueError(path)


def note_failure(job: Any, connection: Any, *exception: Any) -> None:
    note(job.args[0], "failure noted")


def is_orphan_waited_for() -> bool:
    """Leave a process behind whose parent has ended; True when somebody waits for its end."""
    made = subprocess.run(
        ["sh", "-c", "sleep 0.2 >/dev/null & echo $!"], capture_output=True, text=True, check=True
    )
    orphan = Path("/proc", made.stdout.strip())
    for _ in range(500):
        if not orphan.exists():
            return True
        time.sleep(0.01)
    return False


def exit_code_of_false() -> int:
    return subprocess.run(["false"], check=False).returncode
