"""What a foreign project gets that sets nothing, with and without DEBUG; each is a process of its own."""

import subprocess
import sys

import pytest

from config.services import BASE_DIR

PROGRAM = """
import sys
import django
from django.conf import settings
settings.configure(
    DEBUG=sys.argv[1] == "debug",
    SECRET_KEY="of a test",
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.postgres", "webhooks"
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()
from webhooks.repair.checks import check_keys_are_set
print(settings.WEBHOOKS_REQUIRE_HTTPS)
print(*settings.WEBHOOKS_ALLOWED_NETWORKS)
print(9000 in [port for ports in settings.WEBHOOKS_ALLOWED_PORTS for port in ports])
print(*[len(key) for key in settings.WEBHOOKS_ENCRYPTION_KEYS])
print(*[error.id for error in check_keys_are_set()])
"""


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("debug", ["False", "127.0.0.0/8 ::1/128", "True", "32", ""]),
        ("production", ["True", "", "False", "", "webhooks.E106"]),
    ],
)
def test_only_debug_is_lenient(mode: str, expected: list[str]) -> None:
    command = [sys.executable, "-c", PROGRAM, mode]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=BASE_DIR).stdout

    assert told.split("\n")[:-1] == expected


def test_a_projects_kind_of_automatic_keys_changes_none_of_ours() -> None:
    """`makemigrations` would write the change into the installed package, where the next one is lost."""
    asked = "from django.core.management import call_command as c; c('makemigrations', check_changes=True)"
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM + asked, "production"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=BASE_DIR)

    assert done.returncode == 0, done.stdout + done.stderr
