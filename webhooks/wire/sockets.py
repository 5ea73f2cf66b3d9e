"""libcurl's sockets and the wake-up of another thread in one epoll.

A wake-up is so noticed at once even while every connection is silent.
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
"""Sockets, and their processor time, before it is looked at what has ended and what is to start; the
other sockets come next."""


class Sockets:
    """The event loop of one multi handle; only wake() may be called from other threads."""

    def __init__(self, multi: Any, *, keeps_idle: bool) -> None:
        self._multi = multi
        self._keeps_idle = keeps_idle
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._watched: dict[int, int] = {}
        """Every socket in the epoll, and for which events."""
        self._wanted: dict[int, int] = {}
        """Those of them that libcurl waits for, and for which events."""
        self.meter = Meter()
        self._processor_seconds = 0.0
        """Of this thread, as last read."""
        self._available = array("i", [0])
        self._others: dict[int, Callable[[], None]] = {}
        """Sockets that are not libcurl's, and what is called when one is ready."""
        self._resting: dict[int, float] = {}
        """Until when each of these is not waited for, the earliest first."""
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
        """Wait until a socket is ready, the timer is due or wake() is called; return what is ready."""
        now = time.monotonic()
        if rests_until := self._end_rests(now):
            timeout_seconds = min(timeout_seconds, rests_until - now)
        if self._timer_at is not None:
            timeout_seconds = min(timeout_seconds, self._timer_at - now)
        return self._epoll.poll(max(0.0, timeout_seconds), MAX_READY)

    def act(self, ready: list[tuple[int, int]]) -> None:
        """Let libcurl do what is to be done on these sockets, and what its timer is due for."""
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
        """Have `act` called by act() whenever one of these events is there on another socket."""
        is_new = fd not in self._others
        self._others[fd] = act
        if is_new:
            # A socket of libcurl's that was closed may have left the number behind.
            self._watched.pop(fd, None)
            self._epoll.register(fd, events)
        else:
            self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """End watch(); nothing else may have been opened since the socket was closed."""
        del self._others[fd]
        # Closed means out of the epoll already.
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Make a wait() return at once; safe from threads and signal handlers."""
        # Full means that a wake-up is already pending; closed means that nobody waits any more.
        with contextlib.suppress(OSError, ValueError):
            os.eventfd_write(self._wake_fd, 1)

    def forget(self, fd: int) -> None:
        """A new socket has this number: what is known of it was of one that is closed."""
        self._watched.pop(fd, None)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake_fd)
        self._wake_fd = -1

    def cut(self, fd: int, requests: int) -> None:
        """Let nothing more come on a connection; libcurl is about to be rid of its requests."""
        self._running -= requests
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # its receiver has closed it
        finally:
            # libcurl goes on to own it.
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
        """Wait again for the sockets that have rested; return until when the next one rests."""
        for fd, until in list(self._resting.items()):
            if until > now:
                return until
            del self._resting[fd]
            self._wait_for(fd, self._wanted[fd])
        return None

    def _watch(self, what: int, fd: int, multi: Any, data: Any) -> None:
        """Wait for what libcurl wants of a socket.

        It stays in the epoll when libcurl is done with it for now, as the next request most often
        goes out on it; when it is closed the kernel takes it out. Not with a proxy, whose name
        libcurl looks up by sockets of which it tells us nothing else.
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
        # Closed means out of the epoll already.
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def _set_timer(self, milliseconds: int) -> None:
        self._timer_at = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def _clear_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
