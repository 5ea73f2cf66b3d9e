"""Programs that wait for orders: a line of JSON each way, so that their start is not measured."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from config.services import BASE_DIR


@dataclass
class Servant:
    """A program that is ready."""

    process: psutil.Process
    _popen: subprocess.Popen[str]

    def do(self, **order: Any) -> Any:
        """Give an order, wait until it is done and return what the program reports."""
        self.begin(**order)
        return self.report()

    def begin(self, **order: Any) -> None:
        assert self._popen.stdin is not None
        print(json.dumps(order), file=self._popen.stdin, flush=True)

    def report(self) -> Any:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            sys.exit(f"{self._popen.args!r} ended.")
        return json.loads(line)


@contextmanager
def running(module: str, *arguments: str) -> Iterator[Servant]:
    """Run `python -m module arguments` until the block ends; it starts when the program is ready."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=BASE_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as popen:
        servant = Servant(psutil.Process(popen.pid), popen)
        try:
            servant.report()
            yield servant
        finally:
            popen.terminate()


def serve(do: Callable[..., Any]) -> None:
    """Carry out orders until there are no more: the program's side."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(do(**json.loads(line))), flush=True)
