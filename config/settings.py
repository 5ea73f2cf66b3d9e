"""Settings, all from the environment (README.md). Importing them starts nothing."""

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

from config import logs, server_urls, unfold
from webhooks.conf import DEFAULTS

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"

MOST_DAYS = 36_525
"""A hundred years: every date that many days ago exists in the calendar."""

MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
"""Addresses in it are looked at as the IPv4 addresses that they are."""

env = environ.Env()


def _required(name: str, why: str) -> str:
    value = str(env.str(name, default=""))
    if not value:
        raise ImproperlyConfigured(f"{name} is not set: {why} (for development set DEBUG=1).")
    return value


def _development_key(name: str) -> str:
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


def _encryption_keys() -> list[bytes]:
    if DEBUG and not env.str("WEBHOOKS_ENCRYPTION_KEYS", default=""):
        texts = [_development_key("encryption")]
    else:
        _required("WEBHOOKS_ENCRYPTION_KEYS", "base64 of 32 random bytes each, comma-separated")
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


def _networks(
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


def _ports(name: str, default: str) -> list[range]:
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


def _whole_number(name: str, default: int | None = None, least: int = 0, most: int = 10**9) -> int:
    default = DEFAULTS[name] if default is None else default
    try:
        number = int(env.str(name, default=str(default)))
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise ImproperlyConfigured(f"{name} must be a whole number from {least} to {most:,}.")
    return number


def _days(name: str) -> float:
    try:
        days = float(env.str(name, default=str(DEFAULTS[name])))
    except ValueError:
        days = 0.0
    if not 0 < days <= MOST_DAYS:
        raise ImproperlyConfigured(f"{name} must be a number above 0, of {MOST_DAYS:,} at most.")
    return days


def _prepared_statements() -> bool:
    """Whether statements may be prepared where the connection allows it (webhooks/postgres/sql.py)."""
    name = "DATABASE_PREPARED_STATEMENTS"
    text = env.str(name, default="auto").lower()
    if text not in ("auto", "1", "true", "on", "yes", "0", "false", "off", "no"):
        raise ImproperlyConfigured(f"{name} must be auto or 0.")
    return text in ("auto", "1", "true", "on", "yes")


def _proxy_url() -> str:
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


def _queue_name() -> str:
    name = str(env.str("WEBHOOKS_QUEUE", default="default"))
    # RQ joins names with commas and builds keys with colons.
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        raise ImproperlyConfigured(
            "WEBHOOKS_QUEUE must be a name of at most 100 letters, digits, dots, hyphens and "
            "underscores."
        )
    return name


def _one_of(name: str, choices: Sequence[str]) -> str:
    """Return one of the choices, the first by default."""
    value = str(env.str(name, default=choices[0]))
    if value not in choices:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(choices)}.")
    return value


def _quotas_of_owners() -> dict[str, dict[str, int]]:
    """Return by the id of an owner what differs from WEBHOOKS_QUOTAS_PER_HOUR."""
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


def _ca_bundle() -> str:
    path = str(env.str("WEBHOOKS_CA_BUNDLE", default=""))
    if path and not Path(path).is_file():
        raise ImproperlyConfigured(f"WEBHOOKS_CA_BUNDLE: there is no file {path!r}.")
    return path


try:
    DEBUG = env.bool("DEBUG", default=False)
except ValueError:
    raise ImproperlyConfigured("DEBUG must be 1 or 0.") from None

SECRET_KEY = (
    _development_key("secret")
    if DEBUG and not env.str("SECRET_KEY", default="")
    else _required("SECRET_KEY", "a long random string")
)
ALLOWED_HOSTS = env.list(
    "ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"] if DEBUG else []
)
if not DEBUG and not ALLOWED_HOSTS:
    raise ImproperlyConfigured(
        "ALLOWED_HOSTS is not set: the host names of this site, comma-separated."
    )

# In DEBUG manage.py and pytest fill both in before the settings load (config/services.py).
_DATABASE_URL = (
    env.str("DATABASE_URL", default="postgres:///remotedevai")
    if DEBUG
    else _required("DATABASE_URL", server_urls.DATABASE_FORM)
)
REDIS_URL = server_urls.read_redis_url(
    env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
    if DEBUG
    else _required("REDIS_URL", server_urls.REDIS_FORM)
)

DATABASES: dict[str, dict[str, Any]] = {"default": server_urls.read_database_url(_DATABASE_URL)}
DATABASES["default"] |= {
    "ENGINE": "webhooks.postgres",
    "CONN_MAX_AGE": 60,
    "CONN_HEALTH_CHECKS": True,
    # A server that vanished without a word, as in a failover, is given up after eleven seconds.
    # (Seconds, but for the last, which is milliseconds; DATABASE_URL may say otherwise.)
    "OPTIONS": {
        "connect_timeout": 10,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    | DATABASES["default"]["OPTIONS"],
}
DATABASE_PREPARED_STATEMENTS = _prepared_statements()

# How workers learn at once that something is due (docs/reliability.md).
WEBHOOKS_WAKEUP = _one_of("WEBHOOKS_WAKEUP", ("rq", "listen", "poll"))
# The queue of wake-ups, and the modules whose functions are jobs (docs/reliability.md).
WEBHOOKS_QUEUE = _queue_name()
WEBHOOKS_JOB_MODULES = env.list("WEBHOOKS_JOB_MODULES", default=[])
RQ_QUEUES = {
    name: {
        "URL": REDIS_URL,
        "DEFAULT_TIMEOUT": 60,
        "SERIALIZER": "rq.serializers.JSONSerializer",
    }
    for name in ("default", WEBHOOKS_QUEUE)
}
RQ = {"WORKER_CLASS": "webhooks.worker.rq_worker.WebhookWorker", "COMMIT_MODE": "auto"}
RQ_SHOW_ADMIN_LINK = False

WEBHOOKS_ENCRYPTION_KEYS = _encryption_keys()
WEBHOOKS_DISABLE_AFTER_DAYS = _days("WEBHOOKS_DISABLE_AFTER_DAYS")
# 0 keeps everything.
WEBHOOKS_RETENTION_DAYS = _whole_number("WEBHOOKS_RETENTION_DAYS", most=MOST_DAYS)
WEBHOOKS_AUDIT_RETENTION_DAYS = _whole_number("WEBHOOKS_AUDIT_RETENTION_DAYS", most=MOST_DAYS)

# What `doctor` takes for a server of config/embedded.py.
WEBHOOKS_DEVELOPMENT_SERVERS = [str(VAR_DIR), "/remotedevai-"]

# Where webhooks may point and how they get there (docs/security.md).
WEBHOOKS_REQUIRE_HTTPS = env.bool("WEBHOOKS_REQUIRE_HTTPS", default=not DEBUG)
# In development receivers run on this machine.
WEBHOOKS_ALLOWED_NETWORKS = _networks(
    "WEBHOOKS_ALLOWED_NETWORKS", ["127.0.0.0/8", "::1/128"] if DEBUG else []
)
WEBHOOKS_FORBIDDEN_NETWORKS = _networks("WEBHOOKS_FORBIDDEN_NETWORKS")
WEBHOOKS_ALLOWED_PORTS = _ports(
    "WEBHOOKS_ALLOWED_PORTS", default="*" if DEBUG else "80,443,8000,8080,8443"
)
WEBHOOKS_OWN_HOSTS = env.list("WEBHOOKS_OWN_HOSTS", default=[] if DEBUG else ALLOWED_HOSTS)
WEBHOOKS_PROXY_URL = _proxy_url()
WEBHOOKS_CA_BUNDLE = _ca_bundle()

EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="webhooks@localhost")
vars().update(env.email_url("EMAIL_URL", default="consolemail://" if DEBUG else "smtp://localhost"))

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "unfold.contrib.inlines",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "knox",
    # Before django_rq, whose command it replaces.
    "webhooks",
    "django_rq",
    "projects",
    "sessions_app",
]
# knox's own token model is replaced by ours and needs no table.
MIGRATION_MODULES = {"knox": None}
MIDDLEWARE = [
    # First: probes come by address, over plain HTTP.
    "config.health.health",
    "webhooks.api.middleware.RequestIdMiddleware",
    "webhooks.api.middleware.ApiMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "config.security.content_security_policy",
    "config.security.refuse_nul",
    # Behind what sets the headers of every answer, before what its requests do not need.
    "webhooks.api.door.Door",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "libraries": {"operator": "webhooks.admin.template_tags"},
        },
    }
]
AUTH_USER_MODEL = "projects.User"
# Where a log-in leads that nothing else led to.
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
KNOX_TOKEN_MODEL = "webhooks.ApiToken"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
X_FRAME_OPTIONS = "DENY"
UNFOLD = unfold.UNFOLD

if not DEBUG:
    SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=True)
    # A proxy that ends TLS: the header that says so, which it must set on every request.
    if header := env.str("SECURE_PROXY_SSL_HEADER", default=""):
        SECURE_PROXY_SSL_HEADER = (f"HTTP_{header.upper().replace('-', '_')}", "https")
    CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
    SECURE_HSTS_SECONDS = _whole_number("SECURE_HSTS_SECONDS", 31_536_000)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = env.bool("SECURE_HSTS_INCLUDE_SUBDOMAINS", default=True)
    # Browsers forget a site of their preload list only after months, so it is for you to ask for.
    SECURE_HSTS_PRELOAD = env.bool("SECURE_HSTS_PRELOAD", default=False)
    SILENCED_SYSTEM_CHECKS = ["security.W021"]
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

# The HTTP API (docs/api.md).
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
WEBHOOKS_MAX_PER_OWNER = _whole_number("WEBHOOKS_MAX_PER_OWNER")
_PER_TOKEN = _whole_number("WEBHOOKS_API_REQUESTS_PER_MINUTE", 1200, least=1)
WEBHOOKS_API_REQUESTS_PER_MINUTE = DEFAULTS["WEBHOOKS_API_REQUESTS_PER_MINUTE"] | {
    "token": _PER_TOKEN,
    "user": 3 * _PER_TOKEN,
}
# What one owner may cause through the API in an hour; a batch counts as its events.
WEBHOOKS_QUOTAS_PER_HOUR = {
    kind: _whole_number(f"WEBHOOKS_{kind.upper()}_PER_HOUR", most, least=1)
    for kind, most in DEFAULTS["WEBHOOKS_QUOTAS_PER_HOUR"].items()
}
WEBHOOKS_QUOTAS_OF_OWNERS = _quotas_of_owners()
# Whether owners prove that a URL is theirs before anything is sent to it (docs/security.md).
WEBHOOKS_ENDPOINT_PROOF = _one_of("WEBHOOKS_ENDPOINT_PROOF", ("off", "advise", "require"))
REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer", "TOKEN_PREFIX": "rdai_"}
REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["webhooks.api.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["webhooks.api.permissions.HasScope"],
    "DEFAULT_PARSER_CLASSES": ["webhooks.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PAGINATION_CLASS": "webhooks.api.pagination.KeysetPages",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_SCHEMA_CLASS": "webhooks.api.schema.ApiSchema",
    "EXCEPTION_HANDLER": "webhooks.api.problems.answer_exception",
    "URL_FORMAT_OVERRIDE": None,
    # How many proxies stand before us; DRF would believe all of X-Forwarded-For without it.
    "NUM_PROXIES": _whole_number("NUM_PROXIES", 0),
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
if DEBUG:
    # The browsable API, for people who are logged in to the admin.
    REST_FRAMEWORK["DEFAULT_AUTHENTICATION_CLASSES"] += [
        "rest_framework.authentication.SessionAuthentication"
    ]
    REST_FRAMEWORK["DEFAULT_RENDERER_CLASSES"] += ["rest_framework.renderers.BrowsableAPIRenderer"]
SPECTACULAR_SETTINGS = {
    "TITLE": "RemoteDevAI Webhooks",
    "DESCRIPTION": "Register webhooks, trigger events, follow deliveries. See docs/api.md.",
    "VERSION": "1.0",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_NAME_OVERRIDES": {
        "DeliveryStatus": "webhooks.choices.DeliveryStatus",
        "BreakerState": "webhooks.choices.BreakerState",
        "TokenScope": "webhooks.models.ApiToken.Scope",
        "RedeliveryStatus": "webhooks.models.Redelivery.Status",
        "SessionStatus": "sessions_app.models.Session.Status",
        "RecordingStatus": "sessions_app.models.Recording.Status",
        "AgentStatus": "sessions_app.models.Agent.Status",
    },
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    # The same description with and without DEBUG.
    "AUTHENTICATION_WHITELIST": [
        "webhooks.api.authentication.BearerAuthentication",
        "webhooks.api.authentication.PasswordAuthentication",
    ],
    "RENDERER_WHITELIST": ["rest_framework.renderers.JSONRenderer"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "webhooks.api.schema.describe_conventions",
        "webhooks.api.schema.describe_webhooks",
    ],
}

LOGGING = logs.configuration(_one_of("LOG_LEVEL", logs.LEVELS), _one_of("LOG_FORMAT", logs.FORMATS))

# Bearer token of /metrics, which is off without one.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
if SENTRY_DSN := env.str("SENTRY_DSN", default=""):
    logs.report_to_sentry(SENTRY_DSN)
