"""Workers and the processes of the web server end, or stand still."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.chaos.crew import kill_all, tree
from tests.chaos.faults import Fault, Kind, Stage
from tests.chaos.kinds.held import held_by
from tests.chaos.memory import can_limit, run_out_of_memory

ZOMBIE_SECONDS = 14
"""Longer than the silence after which a worker is declared dead."""


def kill_worker(stage: Stage, fault: Fault) -> None:
    with _stopped(stage, fault) as processes:
        # The children, too: what they hold is known now.
        kill_all(processes)


def run_worker_out_of_memory(stage: Stage, fault: Fault) -> None:
    """The kernel's OOM killer ends a worker in the middle of what it does."""
    with _stopped(stage, fault) as processes:
        pids = [process.pid for process in processes]
        for process in processes:
            process.resume()
        run_out_of_memory(pids)
        # It went on for some instructions.
        fault.may_repeat |= held_by(processes)
        fault.repeats_until = time.time() + 1


def stop_and_continue_worker(stage: Stage, fault: Fault) -> None:
    with _stopped(stage, fault) as processes:
        time.sleep(ZOMBIE_SECONDS)
        for process in processes:
            process.resume()


@contextmanager
def _stopped(stage: Stage, fault: Fault) -> Iterator[list[psutil.Process]]:
    """Stop a worker in the middle of everything, and note what it holds."""
    processes = tree(stage.world.worker())
    for process in processes:
        process.suspend()
    try:
        fault.may_repeat = held_by(processes)
        fault.is_death = True
        fault.repeats_until = time.time() + 1
        yield processes
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def terminate_worker(stage: Stage, fault: Fault) -> None:
    fault.is_end = True
    stage.world.worker().terminate()


def kill_web_server(stage: Stage, _: Fault) -> None:
    """All of it at once, as a container or a systemd unit is killed."""
    kill_all(tree(stage.world.web()))


def kill_web_process(stage: Stage, _: Fault) -> None:
    """One that answers requests; the server replaces it."""
    if children := tree(stage.world.web())[1:]:
        stage.dice.choice(children).kill()


KINDS = [
    Kind(6, kill_worker),
    Kind(2, run_worker_out_of_memory, lambda _: can_limit()),
    Kind(3, terminate_worker),
    Kind(2, stop_and_continue_worker),
    Kind(1, kill_web_server),
    Kind(2, kill_web_process),
]
