"""The pins of a multi handle, which libcurl keeps until they are removed."""

from typing import Any

import pycurl

from webhooks.wire.names import MAX_HOSTS


class Pins:
    """The entries of all pins in one multi handle."""

    def __init__(self, multi: Any) -> None:
        self._multi = multi
        self._entries: set[str] = set()

    def add(self, entry: str) -> None:
        self._entries.add(entry)

    @property
    def are_many(self) -> bool:
        return len(self._entries) > MAX_HOSTS

    def forget(self, in_use: set[str]) -> None:
        """Make libcurl forget all pins except those of requests in flight.

        libcurl keeps RESOLVE entries for ever. An entry with a `+` would expire, but then libcurl
        would look up the host itself if it repeats a request that outlives the entry.
        """
        gone = self._entries - in_use
        self._entries -= gone
        # This transfer ends before it opens a socket; libcurl reads its entries as it begins.
        carrier = pycurl.Curl()
        carrier.setopt(pycurl.URL, "http://0.0.0.0/")
        carrier.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS)
        carrier.setopt(pycurl.NOSIGNAL, 1)
        carrier.setopt(pycurl.RESOLVE, [f"-{entry}" for entry in gone])
        self._multi.add_handle(carrier)
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._multi.remove_handle(carrier)
        carrier.close()
