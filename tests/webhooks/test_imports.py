"""What a process of a foreign project loads that only stores events, and a web process of ours."""

import os
import subprocess
import sys

import pytest

from config.services import BASE_DIR

PROGRAM = """
import sys
import django
from django.conf import settings
contrib = ("auth", "contenttypes", "sessions", "messages", "postgres")
settings.configure(
    INSTALLED_APPS=[*(f"django.contrib.{name}" for name in contrib), *sys.argv[1:], "webhooks"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
import webhooks.outbox.store
names = ("pycurl", "requests", "redis", "rq", "rest_framework", "unfold")
print(*(name for name in names if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("apps", "loaded"),
    # The admin tests webhooks, and counts passwords in Valkey where its client is installed.
    [([], []), (["django.contrib.admin"], ["requests", "redis"])],
    ids=["alone", "with Django's admin"],
)
def test_a_producer_loads_no_client(apps: list[str], loaded: list[str]) -> None:
    command = [sys.executable, "-c", PROGRAM, *apps]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=BASE_DIR).stdout

    assert told.split() == loaded


WEB_PROGRAM = """
import sys
from config.wsgi import application
from django.urls import get_resolver
get_resolver().url_patterns
print("pycurl" in sys.modules)
"""


def test_a_web_process_does_not_load_the_sender() -> None:
    """It would take five megabytes more."""
    told = subprocess.run(
        [sys.executable, "-c", WEB_PROGRAM],
        check=True,
        capture_output=True,
        text=True,
        cwd=BASE_DIR,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings"},
    ).stdout

    assert told.split() == ["False"]
