"""Operating-system duties of a long-running process: signals, a lost parent, adopted orphans.

This module knows nothing about webhooks and waits only for children that it started or adopted.
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
"""Their default action would end the process; neither the worker nor RQ uses them."""
PARENT_CHECK_SECONDS = 1.0
PR_GET_CHILD_SUBREAPER = 37

Handler = Callable[[int, FrameType | None], None]


def handle_signals(stop: Handler) -> None:
    """Call `stop` on each stop signal, and ignore IGNORED_SIGNALS; for the main thread only."""
    for number in STOP_SIGNALS:
        # nohup makes a process ignore SIGHUP; that must remain so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def stop_with_parent(parent: int) -> None:
    """Send SIGTERM to this process when its parent (process id) is gone, even by SIGKILL.

    Starts a thread that checks every PARENT_CHECK_SECONDS.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def leave_at_once() -> NoReturn:
    """Exit with code 0 without waiting for threads, which may hang on an unreachable server."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def split_from_init() -> None:
    """Continue in a child process if this process adopts orphans, like process 1 of a container.

    A process that adopts orphans must wait for any child, and so would take the exit codes that
    `subprocess` waits for. So the parent does nothing else: it forwards signals to the child and
    exits with the child's exit code. Call this before starting threads or opening connections.
    """
    if not _adopts_orphans():
        return
    init = os.getpid()
    forwarded = {*STOP_SIGNALS, *IGNORED_SIGNALS}
    # Block the signals until both processes have their handlers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
    child = os.fork()
    if child != 0:
        for number in forwarded:
            signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if child != 0:
        os._exit(_wait_for(child))
    stop_with_parent(init)


def _adopts_orphans() -> bool:
    if os.getpid() == 1:
        return True
    if not sys.platform.startswith("linux"):
        return False
    is_subreaper = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(is_subreaper))
    return bool(is_subreaper.value)


def _wait_for(child: int) -> int:
    """Reap all children until `child` ends; return its exit code as a shell does (128 + signal)."""
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
