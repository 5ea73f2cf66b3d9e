"""The rules for a webhook's custom headers.

Values are often credentials: no text made here contains one.
"""

import re
from collections.abc import Mapping

from django.conf import settings

from webhooks.pace.bounds import length_problem
from webhooks.wire.trace_context import HEADER_NAMES

MAX_HEADERS = 20
MAX_LINES = 4 * MAX_HEADERS
"""The maximum lines of the custom headers' text, empty ones included."""
MAX_NAME_LENGTH = 64
MAX_VALUE_LENGTH = 4096

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 section 5.6.2."""
VALUE = re.compile(r"([!-~]([\t -~]*[!-~])?)?")
"""RFC 9110 section 5.5, without the bytes beyond ASCII that every receiver reads differently."""

FORBIDDEN = {
    "accept-encoding", "connection", "cookie", "cookie2", "date", "expect", "forwarded", "host",
    "http2-settings", "keep-alive", "set-cookie", "set-cookie2", "te", "trailer",
    "transfer-encoding", "upgrade", "user-agent", "via", "x-real-ip",
    # These change the method or the path behind a proxy that has checked both.
    "x-http-method", "x-http-method-override", "x-method-override", "x-original-method",
    "x-original-uri", "x-original-url", "x-original-host", "x-rewrite-url", "x-host",
    "x-accel-redirect", "x-sendfile",
    # In these a proxy names the client.
    "client-ip", "fastly-client-ip", "remote-addr", "remote-user", "true-client-ip", "x-client-ip",
    "x-cluster-client-ip", "x-forwarded", "x-originating-ip", "x-remote-addr", "x-remote-ip",
    "x-remote-user", "x-authenticated-user", "x-appengine-user-ip", "x-ssl-client-cert",
    "x-client-cert", "x-client-dn",
    # Cloud metadata services require one of these as proof that a request is intended.
    "metadata", "metadata-flavor", "x-google-metadata-request", "x-metadata-token",
    "x-vault-request", "x-identity-header", "x-kubernetes-metadata",
}  # fmt: skip
FORBIDDEN_PREFIXES = (
    "ce-", "content-", "proxy-", "sec-", "webhook-", "x-forwarded-", "x-webhook-",
    # Identities that a proxy vouches for, and cloud metadata.
    "cf-access-", "cf-connecting-", "impersonate-", "x-amzn-oidc-", "x-auth-request-",
    "x-aws-ec2-metadata-", "x-envoy-", "x-goog-authenticated-user-", "x-goog-iap-",
    "x-ms-client-principal", "x-ms-token-", "x-remote-extra-", "x-remote-group", "x-ssl-client-",
)  # fmt: skip
"""Headers that we or libcurl send, that steer connections, caches and proxies, or that only a proxy
may set."""


def read_header_lines(text: str) -> dict[str, str]:
    """Return the headers of a text with one `Name: value` a line; empty lines do not count.

    Raises ValueError for too many lines, and for one of another form.
    """
    lines = text.splitlines()
    if problem := length_problem(lines, MAX_LINES):
        raise ValueError(problem)
    headers = {}
    for line in lines:
        name, colon, content = line.partition(":")
        if line.strip() and not colon:
            raise ValueError(f"“{line[:40]}” is not of the form Name: value.")
        if line.strip():
            headers[name.strip()] = content.strip()
    return headers


def header_problems(headers: Mapping[str, str]) -> list[str]:
    """Return the problems of custom headers, one sentence each; empty if all are allowed."""
    if problem := length_problem(headers, MAX_HEADERS):
        return [problem]
    problems = [
        problem for name, value in headers.items() if (problem := header_problem(name, value))
    ]
    if len({_spelled_alike(str(name)) for name in headers}) < len(headers):
        problems.append("Two custom headers have the same name.")
    return problems


def header_problem(name: object, value: object) -> str | None:
    """Return the problem of one header as a sentence, or None."""
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH or not TOKEN.fullmatch(name):
        return (
            f"{_shown(name)} is not a header name: use up to {MAX_NAME_LENGTH} letters, digits "
            "and hyphens."
        )
    if is_forbidden(name):
        return f"{name} cannot be a custom header: it is set by us or steers the connection."
    if not isinstance(value, str) or len(value) > MAX_VALUE_LENGTH or not VALUE.fullmatch(value):
        return (
            f"The value of {name} is refused: use up to {MAX_VALUE_LENGTH:,} visible ASCII "
            "characters, without a space at either end."
        )
    return None


def is_forbidden(name: str) -> bool:
    """Say whether a name is forbidden, in any case and with any punctuation instead of hyphens."""
    alike = _spelled_alike(name)
    if alike in HEADER_NAMES and settings.WEBHOOKS_SEND_TRACEPARENT:
        return True
    return alike in FORBIDDEN or alike.startswith(FORBIDDEN_PREFIXES)


def _spelled_alike(name: str) -> str:
    """Return one spelling for names that some servers confuse: CGI and WSGI ignore case and read `_`
    as `-`; some servers treat all punctuation alike."""
    return re.sub(r"[^a-z0-9]", "-", name.lower())


def _shown(name: object) -> str:
    return repr(name)[: MAX_NAME_LENGTH + 2]
