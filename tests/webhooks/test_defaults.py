"""What a foreign project gets that sets nothing, with and without DEBUG; each is a process of its own."""

import os
import re
import subprocess
import sys

import pytest

from config.services import BASE_DIR
from config.settings_page import REQUIRED

PROGRAM = """
import sys
import django
from django.conf import settings
settings.configure(
    DEBUG=sys.argv[1] == "debug",
    SECRET_KEY="of a test",
    ALLOWED_HOSTS=["shop.example.com", ".shop.example.net", "*"],
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
from webhooks.wire.url_rules import UrlRefusedError, accept_url
def is_refused(url):
    try:
        return not accept_url(url)
    except UrlRefusedError as refusal:
        return "this site itself" in str(refusal)
hosts = ("shop.example.com", "www.shop.example.net", "example.com")
print(*[is_refused(f"https://{host}/") for host in hosts])
"""


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("debug", ["False", "127.0.0.0/8 ::1/128", "True", "32", "", "False False False"]),
        ("production", ["True", "", "False", "", "webhooks.E106", "True True False"]),
    ],
)
def test_only_debug_is_lenient(mode: str, expected: list[str]) -> None:
    command = [sys.executable, "-c", PROGRAM, mode]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=BASE_DIR).stdout

    assert told.split("\n")[:-1] == expected


DIFFERENCES = """
from config import settings as ours
from django.conf import settings
settings.configure(
    ALLOWED_HOSTS=ours.ALLOWED_HOSTS, AUTH_USER_MODEL="auth.User", SECRET_KEY=ours.SECRET_KEY
)
from webhooks.conf import DEFAULTS, apply_defaults
apply_defaults()
for name in {*DEFAULTS, *filter(lambda name: name.startswith("WEBHOOKS_"), vars(ours))}:
    if getattr(ours, name, DEFAULTS.get(name)) != getattr(settings, name, "no setting of the app"):
        print(name)
"""


def test_the_page_of_installation_names_every_default_that_only_remotedevai_has() -> None:
    environment = {"PATH": os.environ["PATH"], **REQUIRED}
    told = subprocess.run(
        [sys.executable, "-c", DIFFERENCES],
        check=True, capture_output=True, text=True, cwd=BASE_DIR, env=environment,
    ).stdout  # fmt: skip

    page = (BASE_DIR / "docs" / "install.md").read_text()
    table = page.partition("| in RemoteDevAI |")[2].partition("\n\n")[0]
    assert set(told.split()) == set(re.findall(r"^\| `(\w+)`", table, re.M))


def test_a_projects_kind_of_automatic_keys_changes_none_of_ours() -> None:
    """`makemigrations` would write the change into the installed package, where the next one is lost."""
    asked = "from django.core.management import call_command as c; c('makemigrations', check_changes=True)"
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM + asked, "production"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=BASE_DIR)

    assert done.returncode == 0, done.stdout + done.stderr
