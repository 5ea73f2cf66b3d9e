"""The reasons why a request has no response: the transport's errors, their kinds and their texts."""

import requests

from webhooks.choices import FailureKind


class SuspendedError(Exception):
    """The process stood still for so long that its rows may belong to another worker now."""


class WithdrawnError(requests.RequestException):
    """The request may not be sent any more; no part of it was sent."""


class TransportError(requests.RequestException):
    """No response came; `kind` classifies it, the text explains it to the receiver's developer.

    The text says only what a stranger may know. It reveals no address of our network, nor whether
    such an address exists behind a name. That a port is closed it says only of addresses that the
    policy allows, about which the failure kind says it, too.
    """

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


NOT_PUBLIC = "The URL's host does not lead to a public address."
NO_ANSWER = (
    "No complete HTTP answer came in time. Check that the receiver can be reached from the "
    "internet, speaks HTTP (for https with TLS 1.2 or newer) and answers within the timeout."
)
REFUSED = (
    "The receiver refused the connection: nothing listens at this host and port, or a firewall "
    "rejects it."
)
MESSAGES = {
    FailureKind.DNS: NOT_PUBLIC,
    FailureKind.BLOCKED_ADDRESS: NOT_PUBLIC,
    FailureKind.CONNECT: NO_ANSWER,
    FailureKind.TLS: NO_ANSWER,
    FailureKind.TIMEOUT: NO_ANSWER,
    FailureKind.RESET: NO_ANSWER,
    FailureKind.PROTOCOL: NO_ANSWER,
    FailureKind.TOO_LARGE: "The receiver's answer has too many or too large headers, or comes in "
    "too many pieces.",
}
CERTIFICATE_MESSAGES = {
    1: "The receiver's TLS certificate is for another host name.",
    9: "The receiver's TLS certificate is not valid yet.",
    10: "The receiver's TLS certificate has expired.",
    18: "The receiver's TLS certificate is self-signed.",
}
"""By OpenSSL's verification result. libcurl compares the names and leaves a 1 if they differ."""
UNKNOWN_ISSUER = (
    "The receiver's TLS certificate is not from a known authority, or its chain is cut."
)


def failure(kind: FailureKind) -> TransportError:
    return TransportError(kind, MESSAGES[kind])


def unsendable() -> TransportError:
    return TransportError(FailureKind.PROTOCOL, "The request cannot be sent to this URL.")
