"""A database thread and a clock that do what a test says, when it says so."""

import time
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest


class FakeThread:
    """Takes orders; each ends as the test says. A desk has at most one under way."""

    def __init__(self) -> None:
        self.orders: list[Any] = []
        self._futures: list[Future[Any]] = []

    def submit(self, *order: Any) -> Future[Any]:
        future: Future[Any] = Future()
        assert all(earlier.done() for earlier in self._futures)
        self._futures.append(future)
        self.orders.append(order[-1])
        return future

    def end(self, value: Any) -> None:
        self._futures[-1].set_result(value)

    def fail(self) -> None:
        self._futures[-1].set_exception(RuntimeError("as the test wants it"))


class FakeClock:
    """What modules read instead of the monotonic clock."""

    def __init__(self, patch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self.now = 1000.0
        for module in modules:
            assert module.time is time
            patch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now
