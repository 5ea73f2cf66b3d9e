"""Send suspects apart from everything else (invariant 8).

A delivery that was in flight when its worker died may be what killed it. It goes out alone, in a
process of its own that sends nothing else at the time, so that it cannot take others with it.
Such a process lives only while there are suspects, and there are at most MOST_PROCESSES of them,
however many workers look after them. A crash here is what it is for: the delivery's crash was
counted before it was sent, and once the silence is noticed another process tries.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

from webhooks.database import has_session_state, run
from webhooks.dispatch import claim as claims
from webhooks.dispatch.engine import Engine

logger = logging.getLogger(__name__)

MOST_PROCESSES = 8
"""Each sends one suspect at a time; slow receivers must not make the others wait for long."""
SLOTS = 7_733
"""Each process holds an advisory lock of this class, which ends with it.

Behind a pooler it would not: connections outlive who uses them. There each worker has slots of its
own.
"""
WORKER_CHECK_SECONDS = 1.0


class Quarantine:
    """A worker's side: starts the process when there are suspects, ends it with the worker."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def tend(self) -> None:
        """Look after it once; to be called again and again."""
        if self._process is not None and self._process.poll() is None:
            return
        count = min(claims.count_suspects(MOST_PROCESSES), count_free_slots())
        if count > 0:
            logger.info("Sending %d or more suspects apart.", count)
            command = [sys.executable, "-c", START, str(os.getpid()), str(count)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        """Have it finish what it is sending; it ends by itself when the worker does."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()


def count_free_slots() -> int:
    """Return how many more processes may send suspects."""
    if not has_session_state():
        return MOST_PROCESSES
    row = run(TAKEN_SLOTS_SQL, {"slots": SLOTS}).fetchone()
    return MOST_PROCESSES - (int(row[0]) if row else 0)


TAKEN_SLOTS_SQL = """
SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
 WHERE locktype = 'advisory' AND classid::bigint = %(slots)s AND datname = current_database()
"""


def take_slot() -> bool:
    """Take a slot until this thread's connection ends; False when all are taken."""
    if not has_session_state():
        return True
    for slot in range(MOST_PROCESSES):
        lock = run(
            "SELECT pg_try_advisory_lock(%(slots)s, %(slot)s)", {"slots": SLOTS, "slot": slot}
        )
        if lock.fetchone() == (True,):
            return True
    return False


START = "import django, sys; django.setup(); from webhooks import quarantine as q; q.main(*sys.argv[1:])"


def main(worker: str, count: str) -> None:
    """Send suspects in `count` processes until there are none, or the process `worker` is gone."""
    # Forked while there is one thread and no connection.
    children: list[int] = []
    for _ in range(int(count) - 1):
        child = os.fork()
        if child == 0:
            children = []
            break
        children.append(child)
    _send_alone(int(worker))
    for child in children:
        os.waitpid(child, 0)


def _send_alone(worker: int) -> None:
    if not take_slot():
        return
    engine = Engine(alone=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: engine.stop())
    threading.Thread(target=_follow, args=(worker, engine), daemon=True).start()
    engine.run(until_idle=True)


def _follow(worker: int, engine: Engine) -> None:
    """Stop when the worker is gone, however it ended."""
    while _lives(worker):
        time.sleep(WORKER_CHECK_SECONDS)
    engine.stop()


def _lives(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
