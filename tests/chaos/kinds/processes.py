"""Workers and the processes of the web server end, or stand still."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.chaos.crew import kill_all, tree
from tests.chaos.faults import Fault, Kind, Stage
from tests.chaos.kinds.held import held_by

ZOMBIE_SECONDS = 14
"""Longer than the silence after which a worker is declared dead."""


def kill_worker(stage: Stage, fault: Fault) -> None:
    with _stopped(stage, fault) as processes:
        # The children, too: what they hold is known now.
        kill_all(processes)


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
    Kind(3, terminate_worker),
    Kind(2, stop_and_continue_worker),
    Kind(1, kill_web_server),
    Kind(2, kill_web_process),
]
