"""Read settings from environment variables.

Every function raises ImproperlyConfigured with one line that names the variable and its form.
"""

import base64
import ipaddress
import json
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import environ
from django.core.exceptions import ImproperlyConfigured

from config import server_urls
from webhooks.conf import DEFAULTS

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"

MOST_DAYS = 36_525
"""A hundred years: the calendar has every date that many days ago."""

MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
"""IPv6 addresses that mean IPv4 addresses; checks compare them as IPv4."""

CELL_NAME = re.compile(r"[a-z0-9-]{1,30}")
FLAGS = {"1": True, "true": True, "on": True, "yes": True,
         "0": False, "false": False, "off": False, "no": False}  # fmt: skip


class Environment(environ.Env):  # type: ignore[misc]
    """Variables as they are written: a `$` at their beginning names no other variable.

    A flag is one of FLAGS, whatever its case, and the items of a list have no spaces around them.
    """

    def get_value(
        self,
        var: str,
        cast: Any = None,
        default: Any = environ.Env.NOTSET,
        parse_default: bool = False,
    ) -> Any:
        if var not in self.ENVIRON:
            return super().get_value(var, cast, default, parse_default)
        text = self.ENVIRON[var]
        if cast is list:
            return [item for item in map(str.strip, text.split(",")) if item]
        if cast is not bool:
            return self.parse_value(text, cast)
        flag = FLAGS.get(text.strip().lower())
        if flag is None:
            raise ImproperlyConfigured(f"{var} must be 1 or 0.")
        return flag


env = Environment()


def required(name: str, why: str) -> str:
    """Return a variable without a default; `why` describes it in the error."""
    value = str(env.str(name, default=""))
    if not value:
        raise ImproperlyConfigured(f"{name} is not set: {why} (for development set DEBUG=1).")
    return value


def development_key(name: str) -> str:
    """Return a random key kept in var/, made on first use; never used outside DEBUG."""
    path = VAR_DIR / f"{name}.key"
    if not path.exists():
        VAR_DIR.mkdir(exist_ok=True)
        fresh = path.with_suffix(f".{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
        try:
            # A hard link fails where another process was first; its key then stands.
            path.hardlink_to(fresh)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text()


def encryption_keys(*, in_development: bool) -> list[bytes]:
    """Return the keys; in development, without any, one kept in var/."""
    if in_development and not env.str("WEBHOOKS_ENCRYPTION_KEYS", default=""):
        texts = [development_key("encryption")]
    else:
        required("WEBHOOKS_ENCRYPTION_KEYS", "base64 of 32 random bytes each, comma-separated")
        texts = env.list("WEBHOOKS_ENCRYPTION_KEYS")
    keys = []
    for number, text in enumerate(texts, start=1):
        try:
            key = base64.b64decode(text, validate=True)
        except ValueError:
            key = b""
        if len(key) != 32:
            raise ImproperlyConfigured(
                f"WEBHOOKS_ENCRYPTION_KEYS: entry {number} is not base64 of 32 bytes."
            )
        keys.append(key)
    return keys


def networks(
    name: str, default: Sequence[str] = ()
) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        networks = [ipaddress.ip_network(text) for text in env.list(name, default=list(default))]
    except ValueError as problem:
        raise ImproperlyConfigured(f"{name}: {problem}.") from None
    for network in networks:
        if network.version == 6 and network.overlaps(MAPPED):
            raise ImproperlyConfigured(
                f"{name}: {network} means IPv4 addresses and would match none; write them as IPv4."
            )
    return networks


def ports(name: str, default: str) -> list[range]:
    """Return the ports of a list such as `80,443,8000-8099`; `*` means all of them."""
    ranges = []
    for text in env.str(name, default=default).replace("*", "1-65535").split(","):
        first, _, last = text.strip().partition("-")
        try:
            ports = range(int(first), int(last or first) + 1)
        except ValueError:
            ports = range(0)
        if not ports or ports[0] < 1 or ports[-1] > 65535:
            raise ImproperlyConfigured(f"{name}: {text!r} is not a port, a range of ports or *.")
        ranges.append(ports)
    return ranges


def whole_number(name: str, default: int | None = None, least: int = 0, most: int = 10**9) -> int:
    default = DEFAULTS[name] if default is None else default
    try:
        number = int(env.str(name, default=str(default)))
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise ImproperlyConfigured(f"{name} must be a whole number from {least} to {most:,}.")
    return number


def days(name: str) -> float:
    try:
        days = float(env.str(name, default=str(DEFAULTS[name])))
    except ValueError:
        days = 0.0
    if not 0 < days <= MOST_DAYS:
        raise ImproperlyConfigured(f"{name} must be a number above 0, of {MOST_DAYS:,} at most.")
    return days


def prepared_statements() -> bool:
    """Return whether to prepare statements on connections that allow it (webhooks/postgres/sql.py)."""
    name = "DATABASE_PREPARED_STATEMENTS"
    text = env.str(name, default="auto").lower()
    if text not in ("auto", "1", "true", "on", "yes", "0", "false", "off", "no"):
        raise ImproperlyConfigured(f"{name} must be auto or 0.")
    return text in ("auto", "1", "true", "on", "yes")


def proxy_url() -> str:
    url = str(env.str("WEBHOOKS_PROXY_URL", default=""))
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname and parts.port)
    except ValueError:
        is_valid = False
    if url and not is_valid:
        # The value may hold a password, so it is not shown.
        raise ImproperlyConfigured(
            "WEBHOOKS_PROXY_URL must be of the form http://host:port or https://host:port."
        )
    return url


def queue_name() -> str:
    name = str(env.str("WEBHOOKS_QUEUE", default="default"))
    # RQ joins names with commas and builds keys with colons.
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        raise ImproperlyConfigured(
            "WEBHOOKS_QUEUE must be a name of at most 100 letters, digits, dots, hyphens and "
            "underscores."
        )
    return name


def one_of(name: str, choices: Sequence[str]) -> str:
    """Return one of the choices, the first by default."""
    value = str(env.str(name, default=choices[0]))
    if value not in choices:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(choices)}.")
    return value


def quotas_of_owners() -> dict[str, dict[str, int]]:
    """Return the quotas of single owners by their ids; others have WEBHOOKS_QUOTAS_PER_HOUR."""
    name = "WEBHOOKS_QUOTAS_OF_OWNERS"
    form = '{"<user id>": {"events": 1000000}}'
    try:
        found = json.loads(env.str(name, default="{}"))
        quotas = {
            str(UUID(owner)): {str(kind): int(most) for kind, most in own.items()}
            for owner, own in found.items()
        }
    except (ValueError, TypeError, AttributeError):
        raise ImproperlyConfigured(f"{name} must be JSON of the form {form}.") from None
    for own in quotas.values():
        if (
            own.keys() - {"events", "deliveries", "redeliveries"}
            or min(own.values(), default=1) < 0
        ):
            raise ImproperlyConfigured(
                f"{name}: an owner has numbers of events, deliveries and redeliveries."
            )
    return quotas


def origins(name: str, *, with_subdomains: bool = False) -> list[str]:
    """Return web origins such as `https://example.com`; `*` is refused, because the list names each.

    With `with_subdomains`, `https://*.example.com` stands for all subdomains.
    """
    wildcard = r"(\*\.)?" if with_subdomains else ""
    listed = env.list(name, default=[])
    for origin in listed:
        if not re.fullmatch(rf"https?://{wildcard}[a-z0-9.-]+(:[0-9]{{1,5}})?", origin):
            raise ImproperlyConfigured(
                f"{name}: {origin!r} is not of the form https://example.com, in lower case and without "
                "a path."
            )
    return [str(origin) for origin in listed]


def color(name: str) -> str:
    value = str(env.str(name, default=DEFAULTS[name]))
    if not re.fullmatch(r"#[0-9A-Fa-f]{6}", value):
        raise ImproperlyConfigured(f"{name} must be a color of the form #4f46e5.")
    return value


def site_path(name: str) -> str:
    """Return a path on this site; empty by default."""
    path = str(env.str(name, default=""))
    if path and not re.fullmatch(r"/[A-Za-z0-9._~/-]+", path):
        raise ImproperlyConfigured(f"{name} must be a path on this site, such as /static/logo.svg.")
    return path


def header_name(name: str) -> str:
    """Return the name of an HTTP header as WSGI has it; empty by default."""
    header = str(env.str(name, default="")).strip()
    # Underscores would be Django's own spelling, HTTP_X_FORWARDED_PROTO, which matches no header.
    if header and not re.fullmatch(r"[A-Za-z0-9-]+", header):
        raise ImproperlyConfigured(f"{name} must be a header, such as X-Forwarded-Proto.")
    return f"HTTP_{header.upper().replace('-', '_')}" if header else ""


def ca_bundle() -> str:
    path = str(env.str("WEBHOOKS_CA_BUNDLE", default=""))
    if path and not Path(path).is_file():
        raise ImproperlyConfigured(f"WEBHOOKS_CA_BUNDLE: there is no file {path!r}.")
    return path


def email_server(name: str, default: str) -> dict[str, Any]:
    """Return Django's settings for a mail server's URL."""
    try:
        return dict(env.email_url(name, default=default))
    except (ValueError, ImproperlyConfigured):
        # The value may hold a password, so it is not shown.
        raise ImproperlyConfigured(
            f"{name} must be of the form smtp://user:password@host:587 or smtp+tls://…"
        ) from None


def log_servers(name: str) -> str:
    """Return the URLs of NATS servers, comma-separated; empty by default."""
    urls = env.list(name, default=[])
    try:
        parts = [urlsplit(url) for url in urls]
        is_valid = all(
            one.scheme in ("nats", "tls", "ws", "wss") and one.hostname and one.port != 0
            for one in parts
        )
    except ValueError:
        is_valid = False
    if not is_valid:
        # The value may hold a password, so it is not shown.
        raise ImproperlyConfigured(
            f"{name} must be of the form nats://user:password@host:4222, comma-separated."
        )
    return ",".join(urls)


def cell_name(name: str) -> str:
    value = str(env.str(name, default=""))
    if value and not CELL_NAME.fullmatch(value):
        raise ImproperlyConfigured(
            f"{name} must be a name of at most 30 small letters, digits and hyphens."
        )
    return value


def databases_of_cells(name: str) -> dict[str, str]:
    """Return the URL of each cell's database, by the cell's name."""
    try:
        found = json.loads(env.str(name, default="{}"))
        urls = {str(cell): str(url) for cell, url in found.items()}
    except (ValueError, AttributeError):
        # The value holds passwords, so it is not shown.
        raise ImproperlyConfigured(
            f'{name} must be JSON of the form {{"<cell>": "postgres://…"}}.'
        ) from None
    for url in urls.values():
        server_urls.read_database_url(url, name)
    return urls
