"""Clocks that a chaos run can set, each for the processes that were started under it."""

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """The time of day of some processes, seconds away from the machine's."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(file)}

    def set(self, seconds: int) -> None:
        """Takes effect at once."""
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(struct.pack("q", seconds))


def build_library(folder: Path) -> Path | None:
    """Compile clock.c; None where there is no C compiler, and clocks stay as they are."""
    library = folder / "clock.so"
    if shutil.which("cc") is None:
        return None
    options = ["-O2", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run(["cc", *options, str(SOURCE), "-ldl"], check=True)
    return library
