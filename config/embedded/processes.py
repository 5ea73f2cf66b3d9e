"""Server processes: started with their supervisor, ended with it."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

STOP_SECONDS = 30


def spawn_server(
    home: Path, service: str, command: list[str], *, uid: int
) -> subprocess.Popen[bytes]:
    stop_signal = signal.SIGINT if service == "postgres" else signal.SIGTERM
    environment: Mapping[str, str] = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
    with (home / f"{service}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=uid if uid != os.getuid() else None,
            extra_groups=[] if uid != os.getuid() else None,
            process_group=0,
            preexec_fn=lambda: die_with_parent(stop_signal),
        )


def die_with_parent(number: int) -> None:
    """Make the kernel send this process a signal when its parent ends (Linux only)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def end_orphan(pid_file: Path, argument: Path, stop_signal: signal.Signals) -> None:
    """Stop a server that outlived its supervisor, and delete the pid file.

    `argument` is a word in the server's command line that identifies it.
    """
    # The file is empty while the server is writing it.
    words = pid_file.read_text().split() if pid_file.exists() else []
    deadline = time.monotonic() + STOP_SECONDS
    while words and _has_argument(int(words[0]), argument) and time.monotonic() < deadline:
        os.kill(int(words[0]), stop_signal)
        time.sleep(0.05)
    pid_file.unlink(missing_ok=True)


def _has_argument(pid: int, argument: Path) -> bool:
    try:
        return str(argument).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
