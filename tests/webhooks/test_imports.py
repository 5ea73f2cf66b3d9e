"""What a process of a foreign project loads that only stores events; each is a process of its own."""

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
