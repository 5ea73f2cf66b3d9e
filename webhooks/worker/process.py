"""What the operating system expects of a process that runs for long: signals, a parent, orphans.

It knows nothing of webhooks, and never waits for a child that it did not start or adopt.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
IGNORED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
"""They would end a process that has no use for them; RQ has none either."""
PARENT_CHECK_SECONDS = 1.0
PR_GET_CHILD_SUBREAPER = 37

Handler = Callable[[int, FrameType | None], None]


def handle_signals(stop: Handler) -> None:
    """Have `stop` called for every signal that ends a process in order; in the main thread only."""
    for number in STOP_SIGNALS:
        # Under nohup a hang-up is ignored, and stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def stop_with_parent(parent: int) -> None:
    """Have this process terminated in order when its parent `parent` is gone, even by SIGKILL."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def leave_at_once() -> NoReturn:
    """End this process without waiting for its threads, which may hang in a server that is away."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def split_from_init() -> None:
    """Go on in a child where this process is given orphans, as process 1 of a container is.

    Somebody has to wait for those; whoever waits for any child takes the exit codes that `subprocess`
    waits for. So this process does nothing else: it passes signals on, and ends as its child does.
    To be called before there are threads or connections.
    """
    if not _is_given_orphans():
        return
    init = os.getpid()
    passed_on = {*STOP_SIGNALS, *IGNORED_SIGNALS}
    # Held back until both sides are ready for them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    child = os.fork()
    if child != 0:
        for number in passed_on:
            signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if child != 0:
        os._exit(_wait_for(child))
    stop_with_parent(init)


def _is_given_orphans() -> bool:
    if os.getpid() == 1:
        return True
    if not sys.platform.startswith("linux"):
        return False
    answer = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


def _wait_for(child: int) -> int:
    """Wait for every child until `child` ends; returns its exit code, as a shell would."""
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
