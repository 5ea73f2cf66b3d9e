"""The clock that keeps running while the machine sleeps."""

import time


def boottime() -> float:
    """Return seconds that never go back, like the monotonic clock's, but count the machine's sleep.

    It measures how long others had time to act (to take over rows, change or revoke), because they
    may have been awake while this machine slept.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def asleep_seconds() -> float:
    """Return how long the machine has slept since it started."""
    return boottime() - time.monotonic()
