"""Parse DATABASE_URL and REDIS_URL, and refuse invalid ones with an error of one line.

An error shows no part of the URL except the name of an unknown option, because any other part may
belong to the password. This module opens no connection.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

import redis
from django.core.exceptions import ImproperlyConfigured
from psycopg import pq

from webhooks.outbox import sentinel

DATABASE_FORM = "postgres://user:password@host:5432/name"
REDIS_FORM = (
    "redis://:password@host:6379/0, rediss://…, unix:///path?db=0 or"
    " redis+sentinel://:password@host:26379,host:26379/name/0"
)

# The part after the credentials, and one of its hosts.
PLACE = re.compile(r"(?P<hosts>[^/?#@]*)(?P<path>/[^?#@]*)?(?:\?(?P<query>[^#]*))?")
HOST = re.compile(r"(?:\[(?P<ipv6>[\dA-Fa-f:.]+)\]|(?P<name>[\w.%~-]*))(?::(?P<port>\d*))?")
OPTION_NAME = re.compile(r"[a-zA-Z_]{1,40}")

LIBPQ_OPTIONS = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
NUMBERS = {
    "connect_timeout", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
    "tcp_user_timeout",
}  # fmt: skip
CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": (
        "any", "read-write", "read-only", "primary", "standby", "prefer-standby",
    ),
}  # fmt: skip

SEVERAL_HOSTS_TIMEOUT = 3
"""Seconds for each host of a URL with several."""

T = TypeVar("T")


class ServerUrl(NamedTuple):
    """The parts of a URL; path and query are still percent-encoded."""

    scheme: str
    user: str
    password: str
    hosts: list[str]
    ports: list[str]
    """One for each host; empty if the URL has none."""
    path: str
    query: str


class UnfitUrlError(ValueError):
    """A URL is invalid; the message continues a sentence that begins with the setting's name."""


def read_database_url(text: str, setting: str = "DATABASE_URL") -> dict[str, Any]:
    """Return Django's settings for a Postgres URL; raises ImproperlyConfigured."""
    return _read(setting, text, _database_config)


def read_redis_url(text: str) -> str:
    """Return a Redis URL with percent-encoded credentials; raises ImproperlyConfigured."""
    return _read("REDIS_URL", text, _redis_url)


def _read(setting: str, text: str, parse: Callable[[ServerUrl], T]) -> T:
    """Return the parsed URL if there is exactly one valid way to split it.

    A password may contain any unencoded character, even `@` and `/`, so the credentials may end at
    any `@`. In practice at most one split leaves valid hosts.
    """
    parsed: list[T] = []
    problems: list[str] = []
    for scheme, credentials, place in _splits(text.strip()):
        try:
            parsed.append(parse(_split(scheme, credentials, place)))
        except UnfitUrlError as problem:
            problems.append(str(problem))
    if len(parsed) == 1:
        return parsed[0]
    if parsed:
        problems = ["is ambiguous: write each @ in the password as %40."]
    raise ImproperlyConfigured(f"{setting} {problems[0]}")


def _splits(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield scheme, credentials and place for each way to split the URL, shortest place first."""
    scheme, _, rest = text.partition("://")
    parts = rest.split("@")
    for count in range(len(parts) - 1, -1, -1):
        yield scheme.lower(), "@".join(parts[:count]), "@".join(parts[count:])


def _split(scheme: str, credentials: str, place: str) -> ServerUrl:
    user, _, password = credentials.partition(":")
    parts = PLACE.fullmatch(place)
    if parts is None:
        raise UnfitUrlError("has # or @ after the host: write them as %23 and %40.")
    hosts = [HOST.fullmatch(host) for host in parts["hosts"].split(",")]
    if not all(hosts):
        raise UnfitUrlError(
            "has an invalid host or port; percent-encode special characters in the password."
        )
    matches = [host for host in hosts if host]
    ports = [_port(host["port"] or "") for host in matches]
    names = [host["ipv6"] or _decode(host["name"]) for host in matches]
    return ServerUrl(
        scheme,
        _decode(user),
        _decode(password),
        names,
        ports,
        parts["path"] or "",
        parts["query"] or "",
    )


def _port(text: str) -> str:
    if text and not 1 <= int(text) <= 65_535:
        raise UnfitUrlError("has a port outside the range 1 to 65535.")
    return text


def _decode(text: str) -> str:
    """Return text without percent-encoding; keeps a % that encodes nothing."""
    try:
        decoded = unquote(text, errors="strict")
        decoded.encode()
    except UnicodeError:
        raise UnfitUrlError("is not UTF-8: write each % in a password as %25.") from None
    if "\0" in decoded:
        raise UnfitUrlError("contains a NUL character.")
    return decoded


# Postgres.


def _database_config(url: ServerUrl) -> dict[str, Any]:
    if url.scheme not in ("postgres", "postgresql", "pgsql", "psql"):
        raise UnfitUrlError(
            f"must be the URL of a Postgres database (version 15 or newer): {DATABASE_FORM}."
        )
    options = _libpq_options(url.query)
    # Path components before the name are the folder of a socket.
    folder, _, name = map(_decode, url.path.removeprefix("/").rpartition("/"))
    if folder and any(url.hosts):
        raise UnfitUrlError("has a database name with a /: write it as %2F.")
    ports = ",".join(url.ports)
    config = {
        "NAME": options.pop("dbname", name),
        "USER": options.pop("user", url.user),
        "PASSWORD": options.pop("password", url.password),
        "HOST": options.pop("host", folder or ",".join(url.hosts)),
        "PORT": options.pop("port", ports if ports.strip(",") else ""),
    }
    if not config["NAME"] and "service" not in options:
        raise UnfitUrlError(f"has no database name: {DATABASE_FORM}.")
    if "," in config["HOST"]:
        # With several hosts, use the one that accepts writes.
        options.setdefault("target_session_attrs", "read-write")
        # Each is waited for in turn, also the one that is gone.
        options.setdefault("connect_timeout", SEVERAL_HOSTS_TIMEOUT)
    return {**config, "OPTIONS": options}


def _libpq_options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in LIBPQ_OPTIONS:
            shown = f" {name!r}" if OPTION_NAME.fullmatch(name) else ""
            raise UnfitUrlError(
                f"has an option{shown} that Postgres' client library does not support."
            )
        value = _decode(value)
        if name in CHOICES and value not in CHOICES[name]:
            raise UnfitUrlError(f"has an invalid {name}; use one of {', '.join(CHOICES[name])}.")
        if name in NUMBERS and not value.isdecimal():
            raise UnfitUrlError(f"has a {name} that is not a whole number.")
        if name == "port":
            for port in value.split(","):
                _port(port if port.isdecimal() or not port else "0")
        options[name] = int(value) if name in NUMBERS else value
    return options


# Valkey or Redis.


def _redis_url(url: ServerUrl) -> str:
    is_watched = url.scheme in ("redis+sentinel", "rediss+sentinel")
    if url.scheme not in ("redis", "rediss", "unix") and not is_watched:
        raise UnfitUrlError(
            f"must be the URL of one Valkey or Redis server, or of its Sentinels: {REDIS_FORM}."
            " Cluster is not supported."
        )
    if len(url.hosts) > 1 and not is_watched:
        raise UnfitUrlError(
            "has more than one host: only redis+sentinel:// has; Cluster is not supported."
        )
    is_socket = url.scheme == "unix"
    if is_socket and (url.hosts != [""] or len(url.path) < 2):
        raise UnfitUrlError("has no socket path: unix:///path?db=0.")
    database = url.path.strip("/")
    if is_watched:
        service, _, database = database.partition("/")
        if not service:
            raise UnfitUrlError("has no name of a primary: redis+sentinel://host:26379/name/0.")
    if not is_socket and database and not database.isdecimal():
        raise UnfitUrlError("has a database that is not a number: redis://:password@host:6379/0.")
    normal = _encode(url)
    try:
        # Creating a connection, without opening it, validates the options and their values.
        sentinels = sentinel.read(normal)
        client = sentinels.client() if sentinels else redis.Redis.from_url(normal)
        client.connection_pool.make_connection()
    except (ValueError, TypeError, redis.RedisError):
        raise UnfitUrlError("has an option that redis-py does not support.") from None
    return normal


def _encode(url: ServerUrl) -> str:
    credentials = f"{quote(url.user, safe='')}:{quote(url.password, safe='')}@"
    places = ",".join(map(_encode_place, url.hosts, url.ports))
    query = f"?{url.query}" if url.query else ""
    return (
        f"{url.scheme}://{credentials if url.user or url.password else ''}{places}{url.path}{query}"
    )


def _encode_place(host: str, port: str) -> str:
    name = f"[{host}]" if ":" in host else quote(host)
    return f"{name}:{port}" if port else name
