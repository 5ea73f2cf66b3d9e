"""How a worker's process runs Python: seldom collections, and short turns of threads."""

import gc
import sys

GARBAGE_THRESHOLD = 50_000
"""New objects between two collections; Python's default is 700."""
SWITCH_SECONDS = 0.0005
"""How long a thread may keep the others from the interpreter; Python's default is ten times as
much, which a claim would wait for several times over while requests go out."""


def set_up_interpreter() -> None:
    """Keep the garbage collector from walking all of Django again and again, and let threads take
    turns.

    A delivery makes a few dozen short-lived objects and no cycles; with the default thresholds the
    collector takes a tenth of the worker's time and finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    sys.setswitchinterval(SWITCH_SECONDS)
