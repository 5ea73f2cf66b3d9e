"""Locks on files, which the kernel releases when their process ends."""

import fcntl
import os
from pathlib import Path


def open_lock(home: Path, name: str) -> int:
    # O_CLOEXEC: started programs must not inherit the lock and count as users.
    return os.open(home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(lock: int, kind: int) -> bool:
    """Take a lock without waiting, and return whether this succeeded."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
