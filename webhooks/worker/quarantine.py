"""Send suspect deliveries in separate processes (invariant 8).

A suspect was in flight when its worker died, and may have caused the crash. A process that sends
only suspects handles it, so that a second crash cannot kill a worker. webhooks/dispatch/suspects.py
decides how many suspects a process sends.

Three kinds of processes take part. Workers look for dead workers; while suspects are due, or a
worker has missed heartbeats for some seconds, each worker keeps a supervisor. A supervisor is a
process with one thread and all code loaded. It sends nothing: it forks a child per group of suspects,
notices at once when a child dies, and has the dead child's suspects sent again in smaller groups. The
supervisors of all workers share a fixed number of slots per level. If a supervisor crashes, its
children finish their requests and exit.
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
from webhooks.outbox import tracing
from webhooks.postgres.sql import has_session_state, leave_pools, run
from webhooks.worker import process

logger = logging.getLogger(__name__)

MAX_PROCESSES = 16
"""The limit per level, so that large groups with slow receivers do not delay smaller groups. Each
process has one Postgres connection. A single culprit needs half of them (suspects.GROUPS)."""
SLOT_LOCK_CLASS = 7_733
"""The class of advisory locks for slots; a supervisor holds one lock per child process.

Behind a pooler there are no locks, because a lock would outlive its supervisor. There each supervisor
has slots of its own.
"""
WARM_UP_SECONDS = 5.0
"""A worker's silence of this length starts a supervisor, which is ready if the worker is dead."""
LOOK_SECONDS = 0.5
LINGER_SECONDS = 10.0
"""A supervisor exits after this time without work."""
PARENT_CHECK_SECONDS = 1.0
MAX_STOP_SECONDS = 35.0
"""Requests in flight end within the longest timeout, 30 s."""
STOP_STEP_SECONDS = 0.1


class Quarantine:
    """The worker's part: find dead workers, start the supervisor and stop it with the worker."""

    def __init__(self) -> None:
        self._watch = life.Watch()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def tend(self) -> None:
        """Reclaim the rows of dead workers, and start the supervisor if needed.

        Call this periodically, always on the same thread. Raises Django's database errors.
        """
        with_fresh_connection("webhooks-quarantine", self._tend)

    def _tend(self) -> None:
        if reclaimed := self._watch.look():
            logger.warning("Reclaimed %d deliveries from dead workers.", reclaimed)
        if self._is_stopping or self._is_running():
            return
        if self._watch.longest_silence_seconds > WARM_UP_SECONDS or suspects.are_any_due():
            command = [sys.executable, "-c", START, str(os.getpid()), *sys.path]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            if self._is_stopping:
                # begin_stop() ran after the check above and did not see the new process.
                self._process.terminate()

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def begin_stop(self) -> None:
        """Make the supervisor finish its requests in flight and exit; safe in a signal handler."""
        self._is_stopping = True
        if self._process is not None:
            self._process.terminate()

    def stop(self, is_hurried: Callable[[], bool]) -> None:
        """Stop the supervisor and wait until it exits.

        Stops waiting after MAX_STOP_SECONDS or when `is_hurried` returns True; the supervisor then
        ends without this process.
        """
        self.begin_stop()
        ends_at = time.monotonic() + MAX_STOP_SECONDS
        while self._is_running():
            if is_hurried() or time.monotonic() > ends_at:
                logger.warning("Exiting while another process still sends suspect deliveries.")
                return
            time.sleep(STOP_STEP_SECONDS)


# manage.py may have been started in any folder: modules are found as they are here.
START = """
import sys
sys.path[:] = sys.argv[2:]
import django
django.setup()
from webhooks.worker import quarantine
quarantine.main(sys.argv[1])
"""


def main(worker: str) -> None:
    """Run a supervisor until it has no work, or until its worker (a process id) is gone."""
    leave_pools()
    # Frozen objects keep their memory pages shared with the children for longer.
    gc.freeze()
    Supervisor(int(worker)).run()


@dataclass(slots=True)
class Child:
    """A process that sends suspects."""

    worker_id: UUID
    level: int
    slot: int
    is_registered: bool = False
    """Whether the supervisor has seen its heartbeat."""
    inherited: Any = None
    """In the child process, the supervisor's database connection. The reference keeps the garbage
    collector from closing it; the child must not use it."""


class Supervisor:
    """Fork a process for each group of suspects and handle its exit. Single-threaded."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._children: dict[int, Child] = {}
        self._crashed: set[UUID] = set()
        """Crashed children whose deliveries may not be reclaimed yet."""
        self._slots: set[int] = set()
        """Slots whose locks this process's connection holds."""
        self._is_stopping = False
        self._busy_at = time.monotonic()
        self._looks_at = 0.0

    def run(self) -> None:
        signals = _signals_to_wait_for()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        while self._children or not self._is_over():
            pause = max(0.0, self._looks_at - time.monotonic())
            received = signal.sigtimedwait(signals, pause)
            is_stop_signal = received is not None and received.si_signo != signal.SIGCHLD
            if is_stop_signal or os.getppid() != self._worker:
                self._stop()
            self._reap()
            # A normal exit is no reason to look at once: if no suspect can be claimed, children would
            # start and exit in a busy loop.
            if self._crashed or time.monotonic() >= self._looks_at:
                self._looks_at = time.monotonic() + LOOK_SECONDS
                self._look()

    def _is_over(self) -> bool:
        return self._is_stopping or time.monotonic() - self._busy_at > LINGER_SECONDS

    def _stop(self) -> None:
        """Start no more children, and let the running ones finish their requests in flight."""
        if not self._is_stopping:
            self._is_stopping = True
            for process_id in self._children:
                os.kill(process_id, signal.SIGTERM)

    def _reap(self) -> None:
        """Collect the exit codes of children that have ended."""
        while self._children:
            process_id, status = os.waitpid(-1, os.WNOHANG)
            if process_id == 0:
                return
            child = self._children.pop(process_id)
            if status != 0:
                code = os.waitstatus_to_exitcode(status)
                logger.error("A process that sent suspects exited with code %d.", code)
                self._crashed.add(child.worker_id)

    def _look(self) -> None:
        try:
            with_fresh_connection("webhooks-supervisor", self._supervise)
        except (DatabaseError, InterfaceError) as problem:
            logger.warning("Cannot look for suspects, Postgres is unavailable: %s", problem)

    def _supervise(self) -> None:
        if self._crashed:
            life.declare_dead(self._crashed)
            life.take_back()
            self._crashed &= life.find_living(self._crashed)
        self._end_hanging()
        if not self._is_stopping:
            self._start_groups()

    def _end_hanging(self) -> None:
        """Kill running children that were declared dead, because others now send their suspects."""
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
    """Return the stop signals and SIGCHLD; also set the process to ignore meaningless signals."""
    # sigtimedwait() receives the stop signals, so that this handler never runs.
    process.handle_signals(lambda *_: None)
    stop = {n for n in process.STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
    return {*stop, signal.SIGCHLD}


def _send_group(child: Child, supervisor: int) -> NoReturn:
    """Send suspects of one level until none is due, then exit this process (1 after an error)."""
    code = 1
    try:
        # The connection belongs to the supervisor: closing it here would end its session.
        child.inherited, connection.connection = connection.connection, None
        engine = Engine(suspects=child.level, worker_id=child.worker_id)
        process.handle_signals(lambda *_: engine.stop())
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        threading.Thread(
            target=_stop_with_supervisor, args=(supervisor, engine), daemon=True
        ).start()
        engine.run(until_idle=True)
        code = 0
    except Exception:
        logger.exception("A process that sends suspects failed.")
    finally:
        tracing.finish()
        logging.shutdown()
        # Returning would run the rest of the supervisor's program in this process.
        os._exit(code)


def _stop_with_supervisor(supervisor: int, engine: Engine) -> None:
    """Stop the engine when the supervisor is gone, even by SIGKILL."""
    while os.getppid() == supervisor:
        time.sleep(PARENT_CHECK_SECONDS)
    engine.stop()


# Slots.

TAKEN_SLOTS_SQL = """
SELECT objid::bigint FROM pg_locks JOIN pg_database d ON d.oid = database
 WHERE locktype = 'advisory' AND classid::bigint = %(slots)s AND datname = current_database()
"""


def take_slots(level: int, needed: int, mine: Collection[int]) -> list[int]:
    """Take free slots of a level until `needed` are taken in total; return the new ones.

    Slots of other supervisors count; `mine` are those that this one already holds. This thread's
    connection holds a slot until give_slot_back() or until the connection ends. Raises Django's
    database errors.
    """
    taken = set(mine)
    has_locks = has_session_state()
    if has_locks:
        taken.update(row[0] for row in run(TAKEN_SLOTS_SQL, {"slots": SLOT_LOCK_CLASS}))
    slots = range(level * MAX_PROCESSES, (level + 1) * MAX_PROCESSES)
    wanted = min(needed, MAX_PROCESSES) - len(taken.intersection(slots))
    new: list[int] = []
    for slot in slots:
        if len(new) < wanted and slot not in taken and (not has_locks or _lock(slot)):
            new.append(slot)
    return new


def _lock(slot: int) -> bool:
    parameters = {"slots": SLOT_LOCK_CLASS, "slot": slot}
    row = run("SELECT pg_try_advisory_lock(%(slots)s, %(slot)s)", parameters).fetchone()
    return bool(row[0])


def give_slot_back(slot: int) -> None:
    """Release a slot; does nothing if the connection that held it has ended."""
    if has_session_state():
        parameters = {"slots": SLOT_LOCK_CLASS, "slot": slot}
        run("SELECT pg_advisory_unlock(%(slots)s, %(slot)s)", parameters)
