"""The time of each phase of a request, by libcurl's clock."""

from typing import Any, NamedTuple

import pycurl


class Phases(NamedTuple):
    """Milliseconds of each phase of one request; 0 for a phase that it did not need or reach.

    If a request ended without a response, its last phase has the rest of the time.
    """

    dns: float
    """Wait for the name look-up, which another request may have started."""
    connect: float = 0.0
    tls: float = 0.0
    send: float = 0.0
    wait: float = 0.0
    """From the request's last byte to the response's first."""
    receive: float = 0.0


def phases_of(
    handle: Any, looked_up_ms: float, total_ms: float, *, is_sent: bool, has_connected: bool
) -> Phases:
    """Return the phases of the transfer that has just ended on a handle, `total_ms` after the look-up.

    `is_sent` says whether any of the request was sent, `has_connected` whether the transfer opened a
    connection. Each getinfo() costs a microsecond, so only those needed are called.
    """
    connect = tls = before = 0.0
    if has_connected or not is_sent:
        connect = handle.getinfo(pycurl.CONNECT_TIME_T) / 1000 or total_ms
        if not is_sent:
            return Phases(looked_up_ms, connect, max(total_ms - connect, 0.0))
        tls = max(handle.getinfo(pycurl.APPCONNECT_TIME_T) / 1000 - connect, 0.0)
        before = connect + tls
    sent = handle.getinfo(pycurl.POSTTRANSFER_TIME_T) / 1000 or total_ms
    answered = handle.getinfo(pycurl.STARTTRANSFER_TIME_T) / 1000 or total_ms
    return Phases(
        looked_up_ms,
        connect,
        tls,
        max(sent - before, 0.0),
        max(answered - sent, 0.0),
        max(total_ms - answered, 0.0),
    )
