"""One epoll for libcurl's sockets and for wake-ups by other threads.

So a wake-up is noticed at once even while every connection is silent.
"""

import contextlib
import os
import select
import socket
import time
from array import array
from collections.abc import Callable
from fcntl import ioctl
from termios import FIONREAD
from typing import Any

import pycurl

from webhooks.wire.meter import Meter

MAX_READY = 64
MAX_ACT_SECONDS = 0.01
"""Most ready sockets, and their processor time, in one turn of the loop; the other sockets come in the
next turn."""


class Sockets:
    """The event loop of one multi handle; only wake() may be called from other threads."""

    def __init__(self, multi: Any, *, keeps_idle: bool) -> None:
        self._multi = multi
        self._keeps_idle = keeps_idle
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._watched: dict[int, int] = {}
        """All of libcurl's sockets in the epoll, and their events there."""
        self._wanted: dict[int, int] = {}
        """The sockets that libcurl waits for, and the events it wants."""
        self.meter = Meter()
        self._processor_seconds = 0.0
        """This thread's processor time, as last read."""
        self._available = array("i", [0])
        self._others: dict[int, Callable[[], None]] = {}
        """Other sockets, and the function to call when one is ready."""
        self._resting: dict[int, float] = {}
        """Resting sockets and the ends of their rests, the earliest first."""
        self._running = 0
        """How many requests libcurl works on."""
        self._timer_at: float | None = None
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    def begin(self, handle: Any) -> None:
        """Let libcurl begin a transfer, with the next act()."""
        self._multi.add_handle(handle)
        self._running += 1

    def wait(self, timeout_seconds: float) -> list[tuple[int, int]]:
        """Wait until a socket is ready, the timer is due or wake() is called; return ready sockets."""
        now = time.monotonic()
        if rests_until := self._end_rests(now):
            timeout_seconds = min(timeout_seconds, rests_until - now)
        if self._timer_at is not None:
            timeout_seconds = min(timeout_seconds, self._timer_at - now)
        return self._epoll.poll(max(0.0, timeout_seconds), MAX_READY)

    def act(self, ready: list[tuple[int, int]]) -> None:
        """Let libcurl work on these sockets and on its timer, and call the functions of others."""
        self._processor_seconds = time.thread_time()
        until = self._processor_seconds + MAX_ACT_SECONDS
        for fd, events in ready:
            if self._processor_seconds > until:
                break
            if fd == self._wake_fd:
                self._clear_wakeup()
            elif fd in self._others:
                self._others[fd]()
            elif fd not in self._wanted:
                # Its receiver closed it while no request was on it.
                self._unwatch(fd)
            else:
                self._act(fd, events)
        if self._timer_at is not None and self._timer_at <= time.monotonic():
            self._timer_at = None
            _, self._running = self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def watch(self, fd: int, act: Callable[[], None], events: int) -> None:
        """Make act() call `act` whenever one of these events happens on another socket."""
        is_new = fd not in self._others
        self._others[fd] = act
        if is_new:
            # The number may be left over from a socket of libcurl's that was closed.
            self._watched.pop(fd, None)
            self._epoll.register(fd, events)
        else:
            self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """End watch(). If the socket is closed, no other file may have been opened since."""
        del self._others[fd]
        # The kernel has already removed a closed socket.
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Make a wait() return at once; safe from threads and signal handlers."""
        # If the eventfd is full, a wake-up is pending already; if it is closed, no thread waits.
        with contextlib.suppress(OSError, ValueError):
            os.eventfd_write(self._wake_fd, 1)

    def forget(self, fd: int) -> None:
        """Forget a socket: the kernel has reused its number for a new one."""
        self._watched.pop(fd, None)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake_fd)
        self._wake_fd = -1

    def cut(self, fd: int, requests: int) -> None:
        """Shut a connection down; the caller then removes its requests from libcurl."""
        self._running -= requests
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # its receiver has closed it
        finally:
            # libcurl still owns the socket.
            connection.detach()

    def _act(self, fd: int, events: int) -> None:
        # EPOLLHUP and EPOLLERR count as readable: libcurl then reads the error itself.
        readable = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0
        writable = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
        if readable:
            ioctl(fd, FIONREAD, self._available)
        running, since = self._running, self._processor_seconds
        _, self._running = self._multi.socket_action(fd, readable | writable)
        self._processor_seconds = time.thread_time()
        if self._running < running:
            self.meter.end(fd)
        elif readable and fd in self._wanted:
            seconds = self._processor_seconds - since
            rests_until = self.meter.charge(fd, seconds, self._available[0])
            if rests_until is not None:
                self._resting[fd] = rests_until
                self._wait_for(fd, 0)

    def _end_rests(self, now: float) -> float | None:
        """Wait again for sockets whose rest has ended; return the end of the next rest, or None."""
        for fd, until in list(self._resting.items()):
            if until > now:
                return until
            del self._resting[fd]
            self._wait_for(fd, self._wanted[fd])
        return None

    def _watch(self, what: int, fd: int, multi: Any, data: Any) -> None:
        """Wait for the events that libcurl wants of a socket.

        When libcurl needs it no longer, the socket stays in the epoll, because the next request
        usually goes out on it; the kernel removes it when it is closed. With a proxy it does not
        stay: libcurl looks the proxy's name up through sockets whose end it does not report.
        """
        if what == pycurl.POLL_REMOVE:
            self._wanted.pop(fd, None)
            self.meter.end(fd)
            self._resting.pop(fd, None)
            if not self._keeps_idle:
                self._unwatch(fd)
            return
        self._wanted[fd] = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (
            select.EPOLLOUT if what & pycurl.POLL_OUT else 0
        )
        if fd not in self._resting:
            self._wait_for(fd, self._wanted[fd])

    def _wait_for(self, fd: int, events: int) -> None:
        watched_for = self._watched.get(fd)
        if watched_for is None:
            self._epoll.register(fd, events)
        elif watched_for != events:
            self._epoll.modify(fd, events)
        self._watched[fd] = events

    def _unwatch(self, fd: int) -> None:
        self._watched.pop(fd, None)
        # The kernel has already removed a closed socket.
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def _set_timer(self, milliseconds: int) -> None:
        self._timer_at = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def _clear_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
