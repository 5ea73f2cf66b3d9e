"""Send suspects apart from everything else (invariant 8).

A delivery that was in flight when its worker died may be what killed it. It goes out in a process
that sends nothing but suspects, so that it cannot take the worker with it. How many go out together
is for webhooks/dispatch/suspects.py to say.

Three kinds of processes take part. A worker looks for the dead, and while there are any, or somebody
has been silent for a while, it keeps a supervisor: a process with everything loaded and one thread,
which sends nothing, forks a child for each group, sees at once when one dies, and has what it held
sent again in smaller groups. Supervisors of all workers share the slots of each level, however many
there are. A crash of a supervisor leaves children that end by themselves when they are done.
"""

import gc
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connection

from webhooks.dispatch import life, suspects
from webhooks.dispatch.desk import with_fresh_connection
from webhooks.dispatch.engine import Engine
from webhooks.dispatch.suspects import GROUP_SIZES
from webhooks.ids import new_id
from webhooks.postgres.sql import has_session_state, run
from webhooks.worker import process

logger = logging.getLogger(__name__)

MOST_PROCESSES = 16
"""Per level, so that groups that wait for slow receivers hold up no smaller ones. Each has one
connection to Postgres. Twice what one culprit needs (suspects.GROUPS)."""
SLOTS = 7_733
"""Each process of a group is stood for by an advisory lock of this class, held by its supervisor.

Behind a pooler there is none: a lock would outlive who took it. There each supervisor has slots of its
own.
"""
WARM_UP_SECONDS = 5.0
"""So long a silence starts a supervisor: it is ready when the silence turns out to be a death."""
LOOK_SECONDS = 0.5
LINGER_SECONDS = 10.0
"""A supervisor goes when it had nothing to do for so long."""
PARENT_CHECK_SECONDS = 1.0
LONGEST_STOP_SECONDS = 35.0
"""What is in flight ends within the longest timeout, 30 s."""
STOP_STEP_SECONDS = 0.1


class Quarantine:
    """A worker's side: looks for the dead, starts the supervisor, ends it with the worker."""

    def __init__(self) -> None:
        self._watch = life.Watch()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def tend(self) -> None:
        """Look after it once; to be called again and again, on one thread."""
        with_fresh_connection("webhooks-quarantine", self._tend)

    def _tend(self) -> None:
        if reclaimed := self._watch.look():
            logger.warning("Took back %d deliveries from dead workers.", reclaimed)
        if self._is_stopping or self._is_running():
            return
        if self._watch.longest_silence_seconds > WARM_UP_SECONDS or suspects.are_any_due():
            command = [sys.executable, "-c", START, str(os.getpid())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            if self._is_stopping:
                # It began to stop meanwhile.
                self._process.terminate()

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def begin_stop(self) -> None:
        """Start nothing more, and have what is in flight finished; safe in a signal handler."""
        self._is_stopping = True
        if self._process is not None:
            self._process.terminate()

    def stop(self, is_hurried: Callable[[], bool]) -> None:
        """Stop, and wait until what is in flight is finished, or the stop is hurried."""
        self.begin_stop()
        ends_at = time.monotonic() + LONGEST_STOP_SECONDS
        while self._is_running():
            if is_hurried() or time.monotonic() > ends_at:
                logger.warning("Suspects are still being sent; leaving them to their end.")
                return
            time.sleep(STOP_STEP_SECONDS)


START = "import django, sys; django.setup(); from webhooks.worker import quarantine as q; q.main(*sys.argv[1:])"


def main(worker: str) -> None:
    """Run a supervisor until there is nothing to do for it, or the process `worker` is gone."""
    # The children share these pages for longer.
    gc.freeze()
    Supervisor(int(worker)).run()


@dataclass(slots=True)
class Child:
    """A process that sends suspects."""

    worker_id: UUID
    level: int
    slot: int
    is_registered: bool = False
    """Whether its heartbeat was seen."""
    inherited: Any = None
    """In the child, the supervisor's connection: never to be used, nor to be closed by the collector."""


class Supervisor:
    """Forks a process for each group of suspects and takes note of how it ends. One thread only."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._children: dict[int, Child] = {}
        self._crashed: set[UUID] = set()
        """Children whose rows may still be marked as theirs."""
        self._slots: set[int] = set()
        """Taken by our connection."""
        self._is_stopping = False
        self._busy_at = time.monotonic()
        self._looks_at = 0.0

    def run(self) -> None:
        signals = _signals_to_wait_for()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        while self._children or not self._is_over():
            pause = max(0.0, self._looks_at - time.monotonic())
            received = signal.sigtimedwait(signals, pause)
            is_told_to_stop = received is not None and received.si_signo != signal.SIGCHLD
            if is_told_to_stop or os.getppid() != self._worker:
                self._stop()
            self._reap()
            # Not at each orderly end: where nothing can be claimed, that would go round in circles.
            if self._crashed or time.monotonic() >= self._looks_at:
                self._looks_at = time.monotonic() + LOOK_SECONDS
                self._look()

    def _is_over(self) -> bool:
        return self._is_stopping or time.monotonic() - self._busy_at > LINGER_SECONDS

    def _stop(self) -> None:
        """Start nothing more, and let the children finish what is in flight."""
        if not self._is_stopping:
            self._is_stopping = True
            for process_id in self._children:
                os.kill(process_id, signal.SIGTERM)

    def _reap(self) -> None:
        """Take note of children that ended."""
        while self._children:
            process_id, status = os.waitpid(-1, os.WNOHANG)
            if process_id == 0:
                return
            child = self._children.pop(process_id)
            if status != 0:
                code = os.waitstatus_to_exitcode(status)
                logger.error("A process that sent suspects ended with %d.", code)
                self._crashed.add(child.worker_id)

    def _look(self) -> None:
        try:
            with_fresh_connection("webhooks-supervisor", self._look_after_all)
        except (DatabaseError, InterfaceError) as problem:
            logger.warning("Suspects wait for Postgres: %s", problem)

    def _look_after_all(self) -> None:
        if self._crashed:
            life.declare_dead(self._crashed)
            life.take_back()
            self._crashed &= life.find_living(self._crashed)
        self._end_hanging()
        if not self._is_stopping:
            self._start_groups()

    def _end_hanging(self) -> None:
        """Kill children that were declared dead and are still there; others have their suspects."""
        living = life.find_living([child.worker_id for child in self._children.values()])
        for process_id, child in self._children.items():
            if child.worker_id in living:
                child.is_registered = True
            elif child.is_registered:
                os.kill(process_id, signal.SIGKILL)

    def _start_groups(self) -> None:
        self._give_slots_back()
        counts = suspects.count_by_level()
        if counts or self._children or life.longest_silence_seconds() > WARM_UP_SECONDS:
            self._busy_at = time.monotonic()
        for level, count in counts.items():
            if count.due:
                needed = math.ceil((count.due + count.in_flight) / GROUP_SIZES[level])
                for slot in take_slots(level, needed, self._slots):
                    self._start(level, slot)

    def _give_slots_back(self) -> None:
        for slot in self._slots - {child.slot for child in self._children.values()}:
            give_slot_back(slot)
            self._slots.discard(slot)

    def _start(self, level: int, slot: int) -> None:
        self._slots.add(slot)
        child = Child(new_id(), level, slot)
        supervisor = os.getpid()
        process_id = os.fork()
        if process_id == 0:
            _send_group(child, supervisor)
        self._children[process_id] = child


def _signals_to_wait_for() -> set[int]:
    """Return the signals that end a process in order, and the one that tells of a child's end."""
    # Waited for, never handled. This also ignores what has no meaning here.
    process.handle_signals(lambda *_: None)
    stop = {n for n in process.STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
    return {*stop, signal.SIGCHLD}


def _send_group(child: Child, supervisor: int) -> NoReturn:
    """Send suspects of one level until none is due, and end this process."""
    code = 1
    try:
        # It belongs to the supervisor: to close it here would end the session there.
        child.inherited, connection.connection = connection.connection, None
        engine = Engine(suspects=child.level, worker_id=child.worker_id)
        process.handle_signals(lambda *_: engine.stop())
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        threading.Thread(target=_follow, args=(supervisor, engine), daemon=True).start()
        engine.run(until_idle=True)
        code = 0
    except Exception:
        logger.exception("A process that sends suspects fails.")
    finally:
        logging.shutdown()
        # The rest of the supervisor's program is not for this process.
        os._exit(code)


def _follow(supervisor: int, engine: Engine) -> None:
    """Stop when the supervisor is gone, however it ended."""
    while os.getppid() == supervisor:
        time.sleep(PARENT_CHECK_SECONDS)
    engine.stop()


# Slots.

TAKEN_SLOTS_SQL = """
SELECT objid::bigint FROM pg_locks JOIN pg_database d ON d.oid = database
 WHERE locktype = 'advisory' AND classid::bigint = %(slots)s AND datname = current_database()
"""


def take_slots(level: int, needed: int, mine: Collection[int]) -> list[int]:
    """Take slots of a level until `needed` are taken, by whomever; returns the new ones.

    They are ours until they are given back or this thread's connection ends. `mine` is what it
    holds already.
    """
    taken = set(mine)
    has_locks = has_session_state()
    if has_locks:
        taken.update(row[0] for row in run(TAKEN_SLOTS_SQL, {"slots": SLOTS}))
    slots = range(level * MOST_PROCESSES, (level + 1) * MOST_PROCESSES)
    wanted = min(needed, MOST_PROCESSES) - len(taken.intersection(slots))
    new: list[int] = []
    for slot in slots:
        if len(new) < wanted and slot not in taken and (not has_locks or _lock(slot)):
            new.append(slot)
    return new


def _lock(slot: int) -> bool:
    parameters = {"slots": SLOTS, "slot": slot}
    row = run("SELECT pg_try_advisory_lock(%(slots)s, %(slot)s)", parameters).fetchone()
    return bool(row[0])


def give_slot_back(slot: int) -> None:
    """Let others have a slot; one that went with its connection is theirs already."""
    if has_session_state():
        parameters = {"slots": SLOTS, "slot": slot}
        run("SELECT pg_advisory_unlock(%(slots)s, %(slot)s)", parameters)
