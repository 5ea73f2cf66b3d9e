"""A small disk for the databases of a chaos run, which can be filled up."""

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
MNT_DETACH = 2
MS_REC_PRIVATE = 0x4000 | 0x40000
BLOCK_BYTES = 64 * 1024**2
PAGE_BYTES = 4096


class Disk:
    """A folder on a file system of its own, in memory, that ends with the last process of the run.

    Without the right to mount (as another user than root) the folder stays on the machine's disk,
    and is never filled.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.is_own = _mount(folder, size_bytes)
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no room."""
        assert self.is_own
        with self._ballast.open("wb") as file:
            position = 0
            for step in (BLOCK_BYTES, PAGE_BYTES):
                try:
                    while True:
                        os.posix_fallocate(file.fileno(), position, step)
                        position += step
                except OSError:
                    continue

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Take the file system away, with all that is on it; the folder is empty then."""
        if self.is_own:
            ctypes.CDLL(None).umount2(str(self.folder).encode(), MNT_DETACH)


def _mount(folder: Path, size_bytes: int) -> bool:
    library = ctypes.CDLL(None)
    if library.unshare(CLONE_NEWNS) != 0:
        return False
    library.mount(b"none", b"/", None, MS_REC_PRIVATE, None)
    options = f"size={size_bytes},mode=711".encode()
    return bool(library.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options) == 0)
