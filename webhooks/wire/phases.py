"""How long each phase of a request took, as libcurl's clock has it."""

from typing import Any, NamedTuple

import pycurl


class Phases(NamedTuple):
    """Milliseconds of each phase of one request; 0 for those it did not need, or did not reach.

    The phase in which a request ended without an answer has the rest of its time.
    """

    dns: float
    """Waiting for the look-up of the name, by ourselves or by somebody else."""
    connect: float = 0.0
    tls: float = 0.0
    send: float = 0.0
    wait: float = 0.0
    """From the request's last byte to the answer's first."""
    receive: float = 0.0


MARKS = (
    pycurl.CONNECT_TIME_T,
    pycurl.APPCONNECT_TIME_T,
    pycurl.POSTTRANSFER_TIME_T,
    pycurl.STARTTRANSFER_TIME_T,
)
"""When the phases after `dns` but the last ended, in microseconds since the transfer began; 0 where
they did not, or were not needed."""


def phases_of(handle: Any, looked_up_ms: float, *, is_sent: bool) -> Phases:
    """Return the phases of the transfer that has just ended on a handle; `is_sent` says whether
    its request has begun to go out."""
    total = handle.getinfo(pycurl.TOTAL_TIME_T)
    # libcurl sets the later marks when a handshake fails, too.
    marks = [handle.getinfo(mark) for mark in (MARKS if is_sent else MARKS[:1])]
    spent = [0.0] * (len(MARKS) + 1)
    before = last = 0
    for number, mark in enumerate(marks):
        if mark:
            last = number + 1
            spent[number] = max(mark - before, 0) / 1000
            before = max(mark, before)
    spent[last] += max(total - before, 0) / 1000
    return Phases(looked_up_ms, *spent)
