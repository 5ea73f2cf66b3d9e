"""The network between workers, Postgres and receivers breaks."""

import time

from tests.chaos.crew import tree
from tests.chaos.faults import Fault, Kind, Stage, TooSoonError
from tests.chaos.kinds.held import held_by, held_for

CUT_SECONDS = (12, 18)
"""Longer than the silence after which a worker is declared dead."""
SLOW_SECONDS = (8, 15)
IN_FLIGHT_SECONDS = 0.3
"""How long Postgres may take for what had reached it."""
FENCE_SECONDS = 8.5
"""After eight seconds without an answer of Postgres a worker hands nothing more over, and others do not
yet count it as dead."""
BREAKER_SECONDS = 35
"""How long a webhook may get nothing because so many requests in a row found no address."""


def cut_worker_off(stage: Stage, fault: Fault) -> None:
    """A worker and Postgres no longer reach one another; no connection is closed, and bytes that were
    under way arrive when the network is there again."""
    process, way = stage.world.worker_and_way()
    with way.frozen():
        time.sleep(IN_FLIGHT_SECONDS)
        fault.may_repeat = held_by(tree(process))
        fault.is_death = True
        fault.repeats_until = fault.started_at + FENCE_SECONDS
        time.sleep(stage.dice.uniform(*CUT_SECONDS))


def slow_link(stage: Stage, fault: Fault) -> None:
    """Everything between a worker and Postgres takes a tenth of a second each way, and more if it is
    long."""
    process, way = stage.world.worker_and_way()
    with way.slow():
        fault.may_repeat = held_for(process, stage.dice.uniform(*SLOW_SECONDS))
    fault.repeats_until = time.time() + 1


def move_name(stage: Stage, _: Fault) -> None:
    if not stage.world.network.move_name():
        raise TooSoonError


def lose_name(stage: Stage, fault: Fault) -> None:
    """The receiver's name is not found."""
    stage.world.network.lose_name()
    stage.go_on(fault, 5, 20, stage.world.network.find_name)
    fault.delays_order_until = fault.lasts_until + BREAKER_SECONDS


KINDS = [Kind(2, cut_worker_off), Kind(2, slow_link), Kind(1, move_name), Kind(1, lose_name)]
