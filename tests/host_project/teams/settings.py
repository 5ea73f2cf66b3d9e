"""A foreign project: teams own webhooks, and users are Django's own, with integer keys."""

import os
from ipaddress import ip_network

KEY = os.environ.get("TEAM_KEY", "bigint")
WITH_API = os.environ.get("TEAM_API") == "1"
"""Whether the extras [api] and [rq] are installed."""

SECRET_KEY = "of a test, and of nothing else, long enough"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
# Of its own models; those of the app keep theirs.
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
ROOT_URLCONF = "urls"
STATIC_URL = "static/"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "webhooks",
    "teams.apps.TeamsConfig",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
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
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["PGHOST"],
        "USER": os.environ["PGUSER"],
        "NAME": os.environ["PGDATABASE"],
    }
}
WEBHOOKS_OWNER_MODEL = "teams.Team"
WEBHOOKS_OWNER_KEY = KEY
WEBHOOKS_OWNER_OF_REQUEST = "teams.requests.team_of"
WEBHOOKS_ENCRYPTION_KEYS = [b"k" * 32]
WEBHOOKS_REQUIRE_HTTPS = False
WEBHOOKS_ALLOWED_NETWORKS = [ip_network("127.0.0.0/8")]
WEBHOOKS_ALLOWED_PORTS = [range(1, 65536)]

if WITH_API:
    INSTALLED_APPS += ["rest_framework", "django_filters"]
    MIDDLEWARE = [
        "webhooks.api.middleware.RequestIdMiddleware",
        "webhooks.api.middleware.ApiMiddleware",
        "webhooks.api.door.Door",
        *MIDDLEWARE,
    ]
