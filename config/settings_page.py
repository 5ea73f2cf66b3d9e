"""Generate docs/settings.md, every variable of the environment: `python -m config.settings_page`.

Names and defaults are those that config/settings.py asks for while it loads, once as in production and
once with DEBUG=1; the meanings stand here. A variable without a meaning, or a meaning without a
variable, is an error.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

INTRODUCTION = """\
# Settings

Every setting is a variable of the environment, read once when a process starts. A value that cannot be
used stops the process with one line that names the variable and its form. Of two defaults, the second
one holds with `DEBUG=1`, which also provides what is required.

`make docs` generates this page."""

MEANINGS: dict[str, dict[str, str]] = {
    "The site": {
        "DEBUG": "`1` for development: generates keys, starts both servers, allows this machine's addresses. Never in production.",
        "SECRET_KEY": "A long random string: Django's key.",
        "ALLOWED_HOSTS": "Host names of this site, comma-separated.",
        "CSRF_TRUSTED_ORIGINS": "Origins, comma-separated, whose forms are accepted if they differ from the host.",
        "NUM_PROXIES": "How many trusted proxies append to `X-Forwarded-For`.",
        "SECURE_SSL_REDIRECT": "Redirect plain HTTP to HTTPS.",
        "SECURE_PROXY_SSL_HEADER": "The header by which a proxy that ends TLS says `https`, such as `X-Forwarded-Proto`; the proxy must set it on every request.",
        "SECURE_HSTS_SECONDS": "How long browsers insist on HTTPS; 0 for not at all.",
        "SECURE_HSTS_INCLUDE_SUBDOMAINS": "Whether that holds for subdomains.",
        "SECURE_HSTS_PRELOAD": "Whether browsers may have it built in.",
        "EMAIL_URL": "Where mails to owners go out: `smtp://user:password@host:587`, `smtp+tls://…`.",
        "DEFAULT_FROM_EMAIL": "The sender of these mails.",
    },
    "Servers": {
        "DATABASE_URL": "Postgres 15 or newer, `postgres://user:password@host:5432/name?sslmode=…`. Of several hosts (`a:5432,b:5432`) the one that accepts writes is used.",
        "DATABASE_PREPARED_STATEMENTS": "`auto`: prepare statements on direct connections, but not behind a pooler; `0`: never.",
        "REDIS_URL": "One Valkey or Redis, for wake-ups only: `redis://:password@host:6379/0`, `rediss://…` or `unix:///path?db=0`; of a primary that Sentinels watch, `redis+sentinel://:password@a:26379,b:26379,c:26379/name/0`; no Cluster.",
        "WEBHOOKS_WAKEUP": "How workers learn of new events: `rq`, `listen` or `poll` ([wake-ups](reliability.md#how-workers-learn-of-new-events)).",
        "WEBHOOKS_QUEUE": "The RQ queue of wake-ups.",
        "WEBHOOKS_JOB_MODULES": "Modules whose functions workers may run as RQ jobs, comma-separated.",
    },
    "Cells": {
        "CELLS_NATS_URL": "The servers of the log, `nats://user:password@host:4222`, comma-separated; without it there are no cells ([cells](cells.md)).",
        "CELL_NAME": "The name of this deployment in the map of cells; none for a producer that is no cell.",
        "CELLS_DATABASES": 'Where slots are moved: the URLs of the cells\' databases, JSON of the form `{"a": "postgres://…"}`.',
    },
    "Keys and retention": {
        "WEBHOOKS_ENCRYPTION_KEYS": "Base64 of 32 random bytes each, comma-separated; the first encrypts, all decrypt.",
        "WEBHOOKS_RETENTION_DAYS": "The daily purge deletes deliveries that finished longer ago; 0 keeps all.",
        "WEBHOOKS_AUDIT_RETENTION_DAYS": "Entries of the audit log older than this are deleted; 0 keeps all.",
    },
    "Sending": {
        "WEBHOOKS_DISABLE_AFTER_DAYS": "Days of failure without a success after which a webhook is disabled; fractions too.",
        "WEBHOOKS_REQUIRE_HTTPS": "Refuse `http://` URLs.",
        "WEBHOOKS_ALLOWED_NETWORKS": "Networks (CIDR), comma-separated, that are exempt from the block on private addresses.",
        "WEBHOOKS_FORBIDDEN_NETWORKS": "Networks that are refused in addition.",
        "WEBHOOKS_ALLOWED_PORTS": "Ports of webhooks: `80,443,8000-8099`; `*` for all.",
        "WEBHOOKS_OWN_HOSTS": "Host names of this product, to which no webhook may point.",
        "WEBHOOKS_PROXY_URL": "An egress proxy, `http://host:port`, through which all requests go.",
        "WEBHOOKS_CA_BUNDLE": "A file of certificate authorities instead of certifi's.",
        "WEBHOOKS_ENDPOINT_PROOF": "Whether owners prove that a URL is theirs before it receives anything: `off`, `advise` or `require`.",
        "WEBHOOKS_UNVERIFIED_REQUESTS_PER_SECOND": "Requests to one host from all webhooks together that are not verified, where proofs are asked for; 0 for no limit.",
    },
    "Limits of the API": {
        "WEBHOOKS_MAX_PER_OWNER": "Webhooks of one owner at most.",
        "WEBHOOKS_API_REQUESTS_PER_MINUTE": "Requests of one token; a user's tokens together have three times as many.",
        "WEBHOOKS_EVENTS_PER_HOUR": "Events that an owner may trigger through the API.",
        "WEBHOOKS_DELIVERIES_PER_HOUR": "Deliveries that these events may cause.",
        "WEBHOOKS_REDELIVERIES_PER_HOUR": "Deliveries that an owner may send again.",
        "WEBHOOKS_QUOTAS_OF_OWNERS": 'Other quotas for single owners, as JSON: `{"<user id>": {"events": 1000000}}`.',
        "WEBHOOKS_SECOND_FACTOR": "Who enters the code of a second factor where a secret is revealed or a token made: accounts that have one (`optional`), all staff (`required`) or nobody (`off`).",
        "WEBHOOKS_CORS_ORIGINS": "Other sites whose pages may use the API from a browser, comma-separated.",
    },
    "The customers' portal": {
        "WEBHOOKS_PORTAL_FRAME_ANCESTORS": "Origins whose pages may show the portal in a frame; `https://*.example.com` for subdomains.",
        "WEBHOOKS_PORTAL_NAME": "What the portal is called.",
        "WEBHOOKS_PORTAL_LOGO": "The path of an image on this site.",
        "WEBHOOKS_PORTAL_ACCENT": "The color of buttons and links.",
        "WEBHOOKS_PORTAL_COLOR_SCHEME": "`auto`, `light` or `dark`.",
    },
    "Observing": {
        "LOG_LEVEL": "The least severe level that is logged.",
        "LOG_FORMAT": "`line` or `json`.",
        "METRICS_TOKEN": "The bearer token of `/metrics`, which is off without one.",
        "SENTRY_DSN": "Where errors are reported.",
        "WEBHOOKS_TRACING": "Whether there are traces by OpenTelemetry, from the request that stored an event to each attempt ([traces](deployment.md#traces)).",
        "WEBHOOKS_SEND_TRACEPARENT": "Whether receivers get the `traceparent` of such a trace; custom headers may then not have that name.",
    },
}

REQUIRED = {
    "SECRET_KEY": "x" * 60,
    "ALLOWED_HOSTS": "example.com",
    "DATABASE_URL": "postgres://user@127.0.0.1:1/name",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "WEBHOOKS_ENCRYPTION_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
}
"""The variables that production needs, with values that let the settings load."""

PROBE = """
import json
from config import environment
asked = {}
class Asking(environment.Environment):
    def get_value(self, var, cast=None, default=environment.Environment.NOTSET, parse_default=False):
        asked[str(var)] = default
        return super().get_value(var, cast=cast, default=default, parse_default=parse_default)
environment.env = Asking()
import config.settings
print(json.dumps(asked, default=str))
"""


def asked_for(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the variables that the settings ask for while they load, with their defaults."""
    ran = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={"PATH": os.environ["PATH"], **variables},
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    asked: dict[str, Any] = json.loads(ran.stdout)
    return asked


def render() -> str:
    """Return the page; raises ValueError if names and meanings do not agree."""
    production = asked_for(REQUIRED)
    development = asked_for(REQUIRED | {"DEBUG": "1"})
    described = {name for group in MEANINGS.values() for name in group}
    if wrong := (production.keys() | development.keys()) ^ described:
        raise ValueError(f"config/settings_page.py and the settings differ: {sorted(wrong)}")
    return "\n\n".join([INTRODUCTION, *_groups(production, development)]) + "\n"


def _groups(production: Mapping[str, Any], development: Mapping[str, Any]) -> Iterator[str]:
    for title, meanings in MEANINGS.items():
        lines = [f"## {title}", "", "| variable | default | meaning |", "| --- | --- | --- |"]
        for name, meaning in meanings.items():
            default = "required"
            if name not in REQUIRED:
                defaults = [
                    _shown(asked[name]) for asked in (production, development) if name in asked
                ]
                default = "; ".join(dict.fromkeys(defaults))
            lines.append(f"| `{name}` | {default} | {meaning} |")
        yield "\n".join(lines)


def _shown(default: Any) -> str:
    if isinstance(default, list):
        default = ",".join(map(str, default))
    if default == REQUIRED["ALLOWED_HOSTS"]:
        return "as `ALLOWED_HOSTS`"
    if isinstance(default, bool):
        default = int(default)
    return "none" if default in (None, "", "[]", "{}") else f"`{default}`"


if __name__ == "__main__":
    sys.stdout.write(render())
