"""Default settings; a project overrides them by settings of the same names."""

from ipaddress import ip_network
from typing import Any

from django.conf import settings
from django.utils.crypto import salted_hmac

DEFAULT_API_ROOT = "/api/v1"
"""Where clients look for the API of a server whose address has no path."""

DEFAULTS: dict[str, Any] = {
    # Keys of 32 bytes each; the first encrypts. Creating a webhook needs at least one: with DEBUG it
    # is derived from SECRET_KEY, else `manage.py check` shows the line that sets a new one.
    "WEBHOOKS_ENCRYPTION_KEYS": [],
    "WEBHOOKS_DISABLE_AFTER_DAYS": 5.0,
    # 0 means no purge.
    "WEBHOOKS_RETENTION_DAYS": 0,
    "WEBHOOKS_AUDIT_RETENTION_DAYS": 365,
    "WEBHOOKS_REQUIRE_HTTPS": True,
    "WEBHOOKS_ALLOWED_NETWORKS": [],
    "WEBHOOKS_FORBIDDEN_NETWORKS": [],
    # Ranges of port numbers.
    "WEBHOOKS_ALLOWED_PORTS": [range(port, port + 1) for port in (80, 443, 8000, 8080, 8443)],
    # ALLOWED_HOSTS without DEBUG; "*" refuses nothing.
    "WEBHOOKS_OWN_HOSTS": [],
    "WEBHOOKS_PROXY_URL": "",
    "WEBHOOKS_CA_BUNDLE": "",
    # Traces by OpenTelemetry, with the extra [tracing], and whether receivers get `traceparent`.
    "WEBHOOKS_TRACING": False,
    "WEBHOOKS_SEND_TRACEPARENT": False,
    # Whose rows own webhooks, as "app.Model"; None for the user model.
    "WEBHOOKS_OWNER_MODEL": None,
    # The type of that model's primary key: uuid, bigint (any integer) or text.
    "WEBHOOKS_OWNER_KEY": "bigint",
    # The function that returns the owner for whom a request to the API or the portal acts, as
    # "module.function"; None where users own webhooks.
    "WEBHOOKS_OWNER_OF_REQUEST": None,
    # The beginning of each token of the HTTP API, at most 10 characters.
    "WEBHOOKS_TOKEN_PREFIX": "wht_",
    # What the secret part of an owner's tokens and portal keys begins with, for a router: a function of
    # the owner's id that returns at most 10 characters; None for nothing.
    "WEBHOOKS_OWNER_MARK": None,
    # Whether another deployment sends for an owner at present, as an SQL condition with {owner} for the
    # owner's id; None where there is no other.
    "WEBHOOKS_OWNER_HELD": None,
    # How many trusted proxies append to X-Forwarded-For; limits of requests count addresses.
    "WEBHOOKS_TRUSTED_PROXIES": 0,
    # One Valkey or Redis, for wake-ups through RQ and for limits of requests; empty for none, where
    # each process counts requests alone.
    "REDIS_URL": "",
    # Whether to prepare statements on connections that allow it.
    "DATABASE_PREPARED_STATEMENTS": True,
    # rq, listen or poll; rq needs Valkey and the extra [rq].
    "WEBHOOKS_WAKEUP": "listen",
    "WEBHOOKS_QUEUE": "default",
    "WEBHOOKS_JOB_MODULES": [],
    "WEBHOOKS_MAX_PER_OWNER": 100,
    "WEBHOOKS_API_REQUESTS_PER_MINUTE": {
        "token": 1200,
        # With all tokens of a user together.
        "user": 3600,
        "test": 20,
        "secret": 20,
        # Of one owner to pages of the portal.
        "portal": 1200,
        # Into one test inbox.
        "inbox": 600,
        "login": 10,
        # Passwords that a signed-in person enters, per account and per address.
        "password": 10,
        # Requests without a valid token, per address.
        "refused": 60,
    },
    # Whether what asks for the password again asks for a code as well: of nobody (off), of accounts
    # that have a second factor (optional), or of all staff (required). Needs the extra [second-factor].
    "WEBHOOKS_SECOND_FACTOR": "optional",
    # The hourly quotas of an owner's requests to the API; each event of a batch counts.
    "WEBHOOKS_QUOTAS_PER_HOUR": {
        "events": 5_000_000,
        "deliveries": 20_000_000,
        "redeliveries": 500_000,
    },
    # The quotas of single owners, by id as text.
    "WEBHOOKS_QUOTAS_OF_OWNERS": {},
    # Whether owners must prove that a URL is theirs before it receives anything: off, advise or require.
    "WEBHOOKS_ENDPOINT_PROOF": "off",
    # To one host, from all webhooks that are not verified; 0 for no cap. Only with proofs.
    "WEBHOOKS_UNVERIFIED_REQUESTS_PER_SECOND": 10,
    # The customers' portal (docs/portal.md): whose pages may show it in a frame, and how it looks.
    "WEBHOOKS_PORTAL_FRAME_ANCESTORS": [],
    "WEBHOOKS_PORTAL_NAME": "Webhooks",
    # The path of an image on this site; empty for none.
    "WEBHOOKS_PORTAL_LOGO": "",
    "WEBHOOKS_PORTAL_ACCENT": "#4f46e5",
    # auto, light or dark.
    "WEBHOOKS_PORTAL_COLOR_SCHEME": "auto",
    # The bearer token of webhooks.doors.metrics, which is off without one; needs the extra [metrics].
    "METRICS_TOKEN": "",
    # Parts of the addresses of development servers; `doctor` reports their use in production.
    "WEBHOOKS_DEVELOPMENT_SERVERS": [],
}

# With DEBUG, receivers run on this machine: over http, on any port.
DEBUG_DEFAULTS: dict[str, Any] = {
    "WEBHOOKS_REQUIRE_HTTPS": False,
    "WEBHOOKS_ALLOWED_NETWORKS": [ip_network("127.0.0.0/8"), ip_network("::1/128")],
    "WEBHOOKS_ALLOWED_PORTS": [range(1, 65536)],
}


def apply_defaults() -> None:
    """Set the settings that the project does not set."""
    defaults = DEFAULTS | {"WEBHOOKS_OWN_HOSTS": settings.ALLOWED_HOSTS}
    if settings.DEBUG:
        key = salted_hmac("webhooks.encryption", "", algorithm="sha256").digest()
        defaults = DEFAULTS | DEBUG_DEFAULTS | {"WEBHOOKS_ENCRYPTION_KEYS": [key]}
    for name, value in defaults.items():
        if not hasattr(settings, name):
            setattr(settings, name, value)
    # Fields and migrations refer to it by name.
    settings.WEBHOOKS_OWNER_MODEL = settings.WEBHOOKS_OWNER_MODEL or settings.AUTH_USER_MODEL


def worker_command() -> str:
    """Return the command that starts a worker for this project's WEBHOOKS_WAKEUP."""
    return f"manage.py {'rqworker' if settings.WEBHOOKS_WAKEUP == 'rq' else 'webhooks_worker'}"
