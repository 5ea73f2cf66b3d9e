"""Settings, all from the environment (README.md). Importing them starts nothing.

config/environment.py reads and checks the variables; webhooks/conf.py has the defaults.
"""

from typing import Any

from django.core.exceptions import ImproperlyConfigured

from config import environment, logs, server_urls, unfold
from config.environment import BASE_DIR, VAR_DIR, env
from webhooks.conf import DEFAULTS
from webhooks.outbox import sentinel

DEBUG = env.bool("DEBUG", default=False)

SECRET_KEY = (
    environment.development_key("secret")
    if DEBUG and not env.str("SECRET_KEY", default="")
    else environment.required("SECRET_KEY", "a long random string")
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
    else environment.required("DATABASE_URL", server_urls.DATABASE_FORM)
)
REDIS_URL = server_urls.read_redis_url(
    env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
    if DEBUG
    else environment.required("REDIS_URL", server_urls.REDIS_FORM)
)

DATABASES: dict[str, dict[str, Any]] = {"default": server_urls.read_database_url(_DATABASE_URL)}
DATABASES["default"] |= {
    "ENGINE": "webhooks.postgres",
    "CONN_MAX_AGE": 60,
    "CONN_HEALTH_CHECKS": True,
    # A server that vanished silently, as in a failover, counts as dead after eleven seconds. (Seconds,
    # except for the last, in milliseconds; DATABASE_URL may override them.)
    "OPTIONS": {
        "connect_timeout": 10,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    | DATABASES["default"]["OPTIONS"],
}
DATABASE_PREPARED_STATEMENTS = environment.prepared_statements()

# How workers learn at once of due deliveries (docs/reliability.md).
WEBHOOKS_WAKEUP = environment.one_of("WEBHOOKS_WAKEUP", ("rq", "listen", "poll"))
# The queue of wake-ups, and the modules whose functions are jobs (docs/reliability.md).
WEBHOOKS_QUEUE = environment.queue_name()
WEBHOOKS_JOB_MODULES = env.list("WEBHOOKS_JOB_MODULES", default=[])
_SENTINELS = sentinel.read(REDIS_URL)
RQ_QUEUES = {
    name: {
        **(_SENTINELS.queue_options() if _SENTINELS else {"URL": REDIS_URL}),
        "DEFAULT_TIMEOUT": 60,
        "SERIALIZER": "rq.serializers.JSONSerializer",
    }
    for name in ("default", WEBHOOKS_QUEUE)
}
RQ = {"WORKER_CLASS": "webhooks.worker.rq_worker.WebhookWorker", "COMMIT_MODE": "auto"}
RQ_SHOW_ADMIN_LINK = False

WEBHOOKS_ENCRYPTION_KEYS = environment.encryption_keys(in_development=DEBUG)
WEBHOOKS_DISABLE_AFTER_DAYS = environment.days("WEBHOOKS_DISABLE_AFTER_DAYS")
# 0 keeps everything.
WEBHOOKS_RETENTION_DAYS = environment.whole_number(
    "WEBHOOKS_RETENTION_DAYS", most=environment.MOST_DAYS
)
WEBHOOKS_AUDIT_RETENTION_DAYS = environment.whole_number(
    "WEBHOOKS_AUDIT_RETENTION_DAYS", most=environment.MOST_DAYS
)

# Addresses by which `doctor` recognizes the servers of config/embedded.
WEBHOOKS_DEVELOPMENT_SERVERS = [str(VAR_DIR), "/remotedevai-"]

# Where webhooks may point and how they get there (docs/security.md).
WEBHOOKS_REQUIRE_HTTPS = env.bool("WEBHOOKS_REQUIRE_HTTPS", default=not DEBUG)
# In development receivers run on this machine.
WEBHOOKS_ALLOWED_NETWORKS = environment.networks(
    "WEBHOOKS_ALLOWED_NETWORKS", ["127.0.0.0/8", "::1/128"] if DEBUG else []
)
WEBHOOKS_FORBIDDEN_NETWORKS = environment.networks("WEBHOOKS_FORBIDDEN_NETWORKS")
WEBHOOKS_ALLOWED_PORTS = environment.ports(
    "WEBHOOKS_ALLOWED_PORTS", default="*" if DEBUG else "80,443,8000,8080,8443"
)
WEBHOOKS_OWN_HOSTS = env.list("WEBHOOKS_OWN_HOSTS", default=[] if DEBUG else ALLOWED_HOSTS)
WEBHOOKS_PROXY_URL = environment.proxy_url()
WEBHOOKS_CA_BUNDLE = environment.ca_bundle()

EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="webhooks@localhost")
vars().update(
    environment.email_server("EMAIL_URL", "consolemail://" if DEBUG else "smtp://localhost")
)

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
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    # Before django_rq, whose command it replaces.
    "webhooks",
    "django_rq",
    "projects",
    "sessions_app",
]
MIDDLEWARE = [
    # First: probes come by address, over plain HTTP.
    "config.health.health",
    "webhooks.api.middleware.RequestIdMiddleware",
    "config.security.share_with_origins",
    "webhooks.api.middleware.ApiMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "config.security.content_security_policy",
    "config.security.refuse_nul",
    # After the middleware that sets the headers of every response, before the middleware that it
    # does not need.
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
            "libraries": {
                "operator": "webhooks.admin.template_tags",
                "portal": "webhooks.portal.template_tags",
            },
        },
    }
]
AUTH_USER_MODEL = "projects.User"
WEBHOOKS_OWNER_MODEL = "projects.User"
WEBHOOKS_OWNER_OF_REQUEST = None
# The page after a login without another destination.
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
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
    # The header by which a proxy that ends TLS says so; the proxy must set it on every request.
    if header := environment.header_name("SECURE_PROXY_SSL_HEADER"):
        SECURE_PROXY_SSL_HEADER = (header, "https")
    CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
    SECURE_HSTS_SECONDS = environment.whole_number("SECURE_HSTS_SECONDS", 31_536_000)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = env.bool("SECURE_HSTS_INCLUDE_SUBDOMAINS", default=True)
    # Browsers drop a site from their preload lists only after months, so this is opt-in.
    SECURE_HSTS_PRELOAD = env.bool("SECURE_HSTS_PRELOAD", default=False)
    SILENCED_SYSTEM_CHECKS = ["security.W021"]
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

# The HTTP API (docs/api.md).
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
WEBHOOKS_MAX_PER_OWNER = environment.whole_number("WEBHOOKS_MAX_PER_OWNER")
_PER_TOKEN = environment.whole_number("WEBHOOKS_API_REQUESTS_PER_MINUTE", 1200, least=1)
WEBHOOKS_API_REQUESTS_PER_MINUTE = DEFAULTS["WEBHOOKS_API_REQUESTS_PER_MINUTE"] | {
    "token": _PER_TOKEN,
    "user": 3 * _PER_TOKEN,
}
# The hourly quotas of an owner's requests to the API; each event of a batch counts.
WEBHOOKS_QUOTAS_PER_HOUR = {
    kind: environment.whole_number(f"WEBHOOKS_{kind.upper()}_PER_HOUR", most, least=1)
    for kind, most in DEFAULTS["WEBHOOKS_QUOTAS_PER_HOUR"].items()
}
WEBHOOKS_QUOTAS_OF_OWNERS = environment.quotas_of_owners()
# Who enters the code of a second factor beside the password (docs/security.md).
WEBHOOKS_SECOND_FACTOR = environment.one_of(
    "WEBHOOKS_SECOND_FACTOR", ("optional", "required", "off")
)
# The name by which authenticators show it.
OTP_TOTP_ISSUER = "RemoteDevAI Webhooks"
# Other sites whose pages may use the API from a browser.
WEBHOOKS_CORS_ORIGINS = environment.origins("WEBHOOKS_CORS_ORIGINS")
# Whether owners must prove that a URL is theirs before it receives anything (docs/security.md).
WEBHOOKS_ENDPOINT_PROOF = environment.one_of(
    "WEBHOOKS_ENDPOINT_PROOF", ("off", "advise", "require")
)
# To one host, from all webhooks together that are not verified; 0 for no cap.
WEBHOOKS_UNVERIFIED_REQUESTS_PER_SECOND = environment.whole_number(
    "WEBHOOKS_UNVERIFIED_REQUESTS_PER_SECOND"
)
WEBHOOKS_TRUSTED_PROXIES = environment.whole_number("NUM_PROXIES", 0)
WEBHOOKS_TOKEN_PREFIX = "rdai_"
WEBHOOKS_OWNER_KEY = "uuid"
# The API itself does not depend on these (webhooks/api/base.py).
REST_FRAMEWORK = {
    "DEFAULT_SCHEMA_CLASS": "webhooks.api.schema.ApiSchema",
    "URL_FORMAT_OVERRIDE": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
API_TAGS = [
    {"name": name, "description": text}
    for name, text in {
        "agents": "Programs that run sessions.",
        "deliveries": "What is owed to webhooks, with every attempt.",
        "event-types": "The catalogue.",
        "events": "Trigger, look at and follow events.",
        "portal-links": "One-time links into the customers' portal.",
        "projects": "Projects, whose changes cause events.",
        "queue": "All owners' deliveries together, for staff.",
        "recordings": "Recordings of sessions.",
        "redeliveries": "Deliveries sent once more.",
        "sessions": "Coding sessions and their messages.",
        "tokens": "Credentials of programs.",
        "webhooks": "What is sent where.",
        "sent-to-receivers": "The requests that webhooks get.",
    }.items()
]
SPECTACULAR_SETTINGS = {
    "TITLE": "RemoteDevAI Webhooks",
    "DESCRIPTION": "Register webhooks, trigger events, follow deliveries. See docs/api.md.",
    "LICENSE": {"name": "MIT", "identifier": "MIT"},
    "CONTACT": {"name": "RemoteDevAI"},
    "SERVERS": [{"url": "/", "description": "The server that this description comes from."}],
    "TAGS": API_TAGS,
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
        "ConnectedAgentStatus": "sessions_app.api.CONNECTED",
        "RepeatableStatus": "webhooks.api.redeliveries.REPEATABLE_CHOICES",
        "WaitingDeliveries": "webhooks.api.webhook_serializers.WAITING",
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
        "webhooks.api.schema.name_enums_once",
    ],
}

# The customers' portal (docs/portal.md).
WEBHOOKS_PORTAL_FRAME_ANCESTORS = environment.origins(
    "WEBHOOKS_PORTAL_FRAME_ANCESTORS", with_subdomains=True
)
WEBHOOKS_PORTAL_NAME = env.str("WEBHOOKS_PORTAL_NAME", default="RemoteDevAI Webhooks")
WEBHOOKS_PORTAL_LOGO = environment.site_path("WEBHOOKS_PORTAL_LOGO")
WEBHOOKS_PORTAL_ACCENT = environment.color("WEBHOOKS_PORTAL_ACCENT")
WEBHOOKS_PORTAL_COLOR_SCHEME = environment.one_of(
    "WEBHOOKS_PORTAL_COLOR_SCHEME", ("auto", "light", "dark")
)

LOGGING = logs.configuration(
    environment.one_of("LOG_LEVEL", logs.LEVELS), environment.one_of("LOG_FORMAT", logs.FORMATS)
)

# Traces by OpenTelemetry, whose own variables say where they go (docs/deployment.md).
WEBHOOKS_TRACING = env.bool("WEBHOOKS_TRACING", default=False)
WEBHOOKS_SEND_TRACEPARENT = env.bool("WEBHOOKS_SEND_TRACEPARENT", default=False)
# Bearer token of /metrics, which is off without one.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
if SENTRY_DSN := env.str("SENTRY_DSN", default=""):
    logs.report_to_sentry(SENTRY_DSN)

# One deployment of several that share the owners (docs/cells.md); without the log there is only one.
CELLS_NATS_URL = environment.log_servers("CELLS_NATS_URL")
CELL_NAME = environment.cell_name("CELL_NAME")
CELLS_DATABASES = environment.databases_of_cells("CELLS_DATABASES")
if CELLS_NATS_URL:
    from cells.slots import HELD_SQL, mark_of

    INSTALLED_APPS.append("cells")
    WEBHOOKS_OWNER_MARK = mark_of
    WEBHOOKS_OWNER_HELD = HELD_SQL
    if CELL_NAME:
        # Before whatever looks into the database for the token.
        MIDDLEWARE.insert(
            MIDDLEWARE.index("webhooks.api.middleware.ApiMiddleware"),
            "cells.middleware.CellMiddleware",
        )
