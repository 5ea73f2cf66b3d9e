"""Which custom headers a webhook may have.

Values often are credentials: no text made here ever holds one.
"""

import re
from collections.abc import Mapping

from webhooks.pace.bounds import length_problem

MAX_HEADERS = 20
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
    # What changes the method or the path behind a proxy that has checked both.
    "x-http-method", "x-http-method-override", "x-method-override", "x-original-method",
    "x-original-uri", "x-original-url", "x-original-host", "x-rewrite-url", "x-host",
    "x-accel-redirect", "x-sendfile",
    # Whom a proxy has found to be the client.
    "client-ip", "fastly-client-ip", "remote-addr", "remote-user", "true-client-ip", "x-client-ip",
    "x-cluster-client-ip", "x-forwarded", "x-originating-ip", "x-remote-addr", "x-remote-ip",
    "x-remote-user", "x-authenticated-user", "x-appengine-user-ip", "x-ssl-client-cert",
    "x-client-cert", "x-client-dn",
    # By which the metadata services of clouds know a request that was meant.
    "metadata", "metadata-flavor", "x-google-metadata-request", "x-metadata-token",
    "x-vault-request", "x-identity-header", "x-kubernetes-metadata",
}  # fmt: skip
FORBIDDEN_PREFIXES = (
    "content-", "proxy-", "sec-", "webhook-", "x-forwarded-", "x-webhook-",
    # Identities that a proxy vouches for, and metadata again.
    "cf-access-", "cf-connecting-", "impersonate-", "x-amzn-oidc-", "x-auth-request-",
    "x-aws-ec2-metadata-", "x-envoy-", "x-goog-authenticated-user-", "x-goog-iap-",
    "x-ms-client-principal", "x-ms-token-", "x-remote-extra-", "x-remote-group", "x-ssl-client-",
)  # fmt: skip
"""What we or libcurl send ourselves, and what steers connections, caches and proxies, or claims
what only a proxy may say."""


def header_problems(headers: Mapping[str, str]) -> list[str]:
    """Return why a webhook may not have these headers, one sentence each; empty when it may."""
    if problem := length_problem(headers, MAX_HEADERS):
        return [problem]
    problems = [
        problem for name, value in headers.items() if (problem := header_problem(name, value))
    ]
    if len({_spelled_alike(str(name)) for name in headers}) < len(headers):
        problems.append("Two custom headers have the same name.")
    return problems


def header_problem(name: object, value: object) -> str | None:
    """Return why one header is refused, or None."""
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
    """Say whether a name is taken, in any case and with any character in place of its hyphens."""
    alike = _spelled_alike(name)
    return alike in FORBIDDEN or alike.startswith(FORBIDDEN_PREFIXES)


def _spelled_alike(name: str) -> str:
    """CGI and WSGI tell neither case nor `-` from `_`; some servers no punctuation at all."""
    return re.sub(r"[^a-z0-9]", "-", name.lower())


def _shown(name: object) -> str:
    return repr(name)[: MAX_NAME_LENGTH + 2]
