"""The rules for a webhook's URL, and its one spelling.

The grammar is so narrow that every parser reads the same host: libcurl, `requests` and browsers
disagree about backslashes, userinfo, unusual numbers and dots, so these are refused. The addresses
of a name are checked later, when the socket opens (webhooks.wire).
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from string import ascii_uppercase
from urllib.parse import quote

import idna
from django.conf import settings
from django.http.request import validate_host
from django.urls import NoReverseMatch, reverse

from webhooks.errors import UrlRefusedError
from webhooks.wire.addresses import AddressPolicy

MAX_URL_LENGTH = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}
LOCAL_SUFFIXES = (
    "localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home", "lan",
    "home.arpa", "svc", "cluster.local",
)  # fmt: skip
"""Suffixes of names that lead only into a private network."""

# Without re.ASCII the long s (U+017F) would pass for an s.
URL = re.compile(r"(https?)://([^/?]+)(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
PLAIN_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.|$))+")
LOWER = {ord(letter): letter.lower() for letter in ascii_uppercase}
LEFT_AS_THEY_ARE = ":/?#[]@!$&'()*+,;=%-._~"
"""Every other character of a path or query is percent-encoded."""
INBOX_TOKEN_CHARACTERS = 43
INBOX_TOKEN = re.compile(f"[A-Za-z0-9_-]{{{INBOX_TOKEN_CHARACTERS}}}")
PERCENT_ENCODED = re.compile("%[0-9a-f]{2}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ParsedUrl:
    scheme: str
    host: str
    """A lower-case ASCII name, or a numeric address without brackets."""
    port: int
    target: str
    """Path and query, as sent."""
    is_numeric: bool

    @property
    def server(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def accept_url(url: str) -> str:
    """Return the URL as a webhook stores it: ASCII, lower-case host, no default port.

    The stored URL is sent byte for byte, as the request's target and its Host header. Raises
    UrlRefusedError, whose text tells the user what to change.
    """
    parsed = parse_url(url)
    if settings.WEBHOOKS_REQUIRE_HTTPS and parsed.scheme != "https":
        raise UrlRefusedError("The URL must start with https://.")
    policy = AddressPolicy(settings.WEBHOOKS_ALLOWED_NETWORKS)
    if not policy.is_port_allowed(parsed.port):
        raise UrlRefusedError(f"Port {parsed.port} is not allowed; use {_port_list()}.")
    own_hosts = [host for host in settings.WEBHOOKS_OWN_HOSTS if host != "*"]
    if validate_host(parsed.host, own_hosts) and not _is_inbox(parsed):
        raise UrlRefusedError("The URL points to this site itself.")
    if parsed.is_numeric:
        is_fine = policy.is_allowed(parsed.host)
    else:
        # A deployment that opens a private network to webhooks needs its names as well.
        is_fine = policy.has_exemptions or not _is_local_name(parsed.host)
    if not is_fine:
        raise UrlRefusedError("The URL's host is not a public one.")
    if _has_dot_segment(parsed.target):
        raise UrlRefusedError(
            "The URL's path holds . or .. as a part; write the path that they lead to."
        )
    if len(str(parsed)) > MAX_URL_LENGTH:
        raise UrlRefusedError(f"The URL is longer than {MAX_URL_LENGTH:,} characters.")
    return str(parsed)


def _is_inbox(parsed: ParsedUrl) -> bool:
    """Say whether a URL at our own host is that of a test inbox: no other page of ours, no query, and
    the usual port."""
    if parsed.port != DEFAULT_PORTS[parsed.scheme]:
        return False
    token = parsed.target.rpartition("/")[2]
    if not INBOX_TOKEN.fullmatch(token):
        return False
    try:
        return reverse("portal-inbox", args=[token]) == parsed.target
    except NoReverseMatch:
        return False


def is_same_url(one: str, other: str) -> bool:
    """Say whether two URLs are the same after parsing; compares the texts if older rules accepted
    one that is refused now."""
    try:
        return str(parse_url(one)) == str(parse_url(other))
    except UrlRefusedError:
        return one == other


def is_same_server(one: str, other: str) -> bool:
    """Say whether two URLs have the same scheme, host and port, and lead to the same test inbox, if to
    one: at that host the path says whose it is. See is_same_url()."""
    try:
        first, second = parse_url(one), parse_url(other)
        is_inbox = _is_inbox(first) or _is_inbox(second)
        return first.server == second.server and (first.target == second.target or not is_inbox)
    except UrlRefusedError:
        return one == other


def parse_url(url: str) -> ParsedUrl:
    """Parse an http or https URL, regardless of the settings; raises UrlRefusedError."""
    if len(url) > MAX_URL_LENGTH:
        raise UrlRefusedError(f"The URL is longer than {MAX_URL_LENGTH:,} characters.")
    if "\\" in url or " " in url or not url.isprintable():
        raise UrlRefusedError("The URL holds a space, a backslash or an invisible character.")
    match = URL.fullmatch(url)
    if match is None:
        raise UrlRefusedError("The URL must start with http:// or https:// and a host.")
    scheme, authority, target = match.groups()
    if "@" in authority:
        raise UrlRefusedError("The URL holds a user name or password; use a custom header instead.")
    if "#" in url:
        raise UrlRefusedError("The URL holds a #; what follows it would never be sent.")
    parts = AUTHORITY.fullmatch(authority)
    if parts is None:
        raise UrlRefusedError("The URL has no valid host and port.")
    host, port = parts.groups()
    number = DEFAULT_PORTS[scheme.lower()] if port is None else int(port)
    if not 1 <= number <= 65535:
        raise UrlRefusedError("The URL's port is not a number from 1 to 65535.")
    name, is_numeric = _parse_host(host)
    return ParsedUrl(scheme.lower(), name, number, _spell_target(target), is_numeric)


def _spell_target(target: str) -> str:
    """Return path and query as libcurl sends them: with a slash for an empty path, and with upper-case
    percent-encodings in the path but not in the query."""
    path, mark, query = quote(target, safe=LEFT_AS_THEY_ARE).partition("?")
    path = PERCENT_ENCODED.sub(lambda found: found[0].upper(), path or "/")
    return path + mark + query


def _has_dot_segment(target: str) -> bool:
    """Say whether a path has dot segments, which servers and proxies resolve differently."""
    path = target.partition("?")[0].replace("%2E", ".")
    return not {".", ".."}.isdisjoint(path.split("/"))


def _parse_host(host: str) -> tuple[str, bool]:
    """Return the host in its one spelling and whether it is a numeric address."""
    try:
        if host.startswith("["):
            return str(IPv6Address(host[1:-1])), True
        name = _parse_name(host)
        if NUMBER.fullmatch(name.rpartition(".")[2]):
            # Accept only the plain form of an address, not 127.1 or 0x7f000001.
            return str(IPv4Address(host)), True
    except (ValueError, UnicodeError):
        raise UrlRefusedError("The URL's host is not a valid name or address.") from None
    return name, False


def _parse_name(host: str) -> str:
    # Map only A to Z: a wider mapping would turn look-alikes such as ① into plain characters.
    name = host.translate(LOWER)
    if not name.isascii() or "xn--" in name:
        name = idna.encode(name, strict=True).decode()
    elif not PLAIN_NAME.fullmatch(name):
        raise ValueError
    return name.removesuffix(".")


def _is_local_name(name: str) -> bool:
    return "." not in name or name.endswith(tuple(f".{suffix}" for suffix in LOCAL_SUFFIXES))


def _port_list() -> str:
    return ", ".join(
        str(ports[0]) if len(ports) == 1 else f"{ports[0]}-{ports[-1]}"
        for ports in settings.WEBHOOKS_ALLOWED_PORTS
    )
