"""The clock that goes on while the machine sleeps."""

import time


def boottime() -> float:
    """Return seconds that never go back, like the monotonic clock's, sleep of the machine included.

    Whatever others may have done meanwhile (taken over, changed, revoked) is measured by this one:
    for them a machine that slept is a process that was stopped.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def asleep_seconds() -> float:
    """Return how long the machine has slept since it started."""
    return boottime() - time.monotonic()
