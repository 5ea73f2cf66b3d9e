"""The network of a chaos run: what the receiver's name means, and the TCP ways to its servers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.embedded import DATABASE, die_with_parent
from config.services import BASE_DIR
from tests.chaos.receiver import ADDRESSES, HOST
from tests.workers import answers, free_port, wait_until

START_SECONDS = 60
STAY_SECONDS = 80.0
"""How long the receiver's name keeps an address: longer than requests may go to the one before."""


@dataclass(frozen=True)
class Way:
    """A TCP port of this machine that leads to a server's socket, and the process behind it."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def database_url(self) -> str:
        return f"postgres://{DATABASE}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let nothing through, and close nothing, until the block ends."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Let everything take long until the block ends."""
        self.process.send_signal(signal.SIGUSR1)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGUSR2)


class Network:
    """Makes ways, and says what the receiver's name means."""

    def __init__(self, names: Path) -> None:
        self.names = names
        """The file that says it, read by tests/chaos/site."""
        self.address_moves: list[tuple[float, str]] = []
        self._ways: list[Way] = []
        self.move_name()

    def make_way(self, path: Path) -> Way:
        """Make a way to a server's socket, which need not be there; it ends with this thread."""
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.link", str(port), str(path)],
            cwd=BASE_DIR,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
        way = Way(port, process)
        self._ways.append(way)
        wait_until(lambda: answers(port), START_SECONDS)
        return way

    def close(self) -> None:
        for way in self._ways:
            way.process.kill()
            way.process.wait()

    # The receiver's name.

    def move_name(self) -> bool:
        """Let the receiver's name mean its other address; the old one goes on answering.

        Returns False where it has just moved: back so soon, it would hide who still uses the old one.
        """
        if len(self.address_moves) > 1 and time.time() < self.address_moves[-1][0] + STAY_SECONDS:
            return False
        address = ADDRESSES[len(self.address_moves) % len(ADDRESSES)]
        self._say(address)
        self.address_moves.append((time.time(), address))
        return True

    def lose_name(self) -> None:
        """Let nobody find the receiver's name."""
        self._say(None)

    def find_name(self) -> None:
        """Let the receiver's name mean again what it meant before."""
        self._say(self.address_moves[-1][1])

    def _say(self, address: str | None) -> None:
        fresh = self.names.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps({HOST: address}))
        fresh.rename(self.names)
