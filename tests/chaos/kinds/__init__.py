"""The kinds of faults of a chaos run."""

from tests.chaos.faults import Kind
from tests.chaos.kinds import network, operations, processes, servers, strangers, webhooks

ALL: list[Kind] = [
    *processes.KINDS,
    *servers.KINDS,
    *network.KINDS,
    *strangers.KINDS,
    *webhooks.KINDS,
    *operations.KINDS,
]
