"""A REDIS_URL that names Sentinels, which know the primary: `redis+sentinel://:password@a,b,c/NAME/0`.

Each new connection asks the first Sentinel that answers where the primary of NAME is. User and password
are those of Valkey; the Sentinels' own are the options `sentinel_username` and `sentinel_password`.
With `rediss+sentinel` Valkey and the Sentinels speak TLS.
"""

from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

SUFFIX = "+sentinel"
PORT = 26379
ASK_SECONDS = 0.25
"""How long to wait for one Sentinel before asking the next one."""


class Sentinels(NamedTuple):
    """The parts of such a URL."""

    addresses: list[tuple[str, int]]
    service: str
    """The name under which the Sentinels know Valkey."""
    options: dict[str, Any]
    """Of connections to Valkey, as redis-py names them."""
    sentinel_options: dict[str, Any]

    def client(self, **options: Any) -> redis.Redis:
        """Return a client of the primary; `options` are those of its connections."""
        # redis-py's Sentinel has no types.
        watching: Any = Sentinel
        sentinel = watching(self.addresses, sentinel_kwargs=self.sentinel_options)
        client: redis.Redis = sentinel.master_for(self.service, **self.options | options)
        return client

    def queue_options(self) -> dict[str, Any]:
        """Return what django-rq needs in RQ_QUEUES instead of `URL`."""
        return {
            "SENTINELS": self.addresses,
            "MASTER_NAME": self.service,
            "CONNECTION_KWARGS": self.options,
            "SENTINEL_KWARGS": self.sentinel_options,
        }


def read(url: str) -> Sentinels | None:
    """Return the parts of a URL; None if it names one server. Raises ValueError for wrong options."""
    parts = urlsplit(url)
    if not parts.scheme.endswith(SUFFIX):
        return None
    scheme = parts.scheme.removesuffix(SUFFIX)
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    parse: Any = parse_url
    options: dict[str, Any] = parse(f"{scheme}://{credentials}@primary/{database}?{parts.query}")
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    own = {
        "username": options.pop("sentinel_username", None),
        "password": options.pop("sentinel_password", None),
        "socket_timeout": ASK_SECONDS,
        "socket_connect_timeout": ASK_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    if scheme == "rediss":
        encryption = {name: value for name, value in options.items() if name.startswith("ssl_")}
        options["ssl"] = True
        own |= encryption | {"ssl": True}
    return Sentinels([_address(host) for host in hosts.split(",")], unquote(service), options, own)


def _address(text: str) -> tuple[str, int]:
    place = urlsplit(f"//{text}")
    return unquote(place.hostname or ""), place.port or PORT
