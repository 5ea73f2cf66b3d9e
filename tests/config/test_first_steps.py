"""What somebody meets who has just cloned the project."""

import os
import subprocess
import sys

import pytest
from django.test import Client

from config.services import BASE_DIR
from projects.models import User


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=BASE_DIR,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_virtual_environment_it_says_how_to_begin() -> None:
    ran = run(sys.executable, "-S", "manage.py", "check")

    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        f"django is not installed in {sys.executable}. Run `make setup` once, and then "
        ".venv/bin/python manage.py check"
    ]


def test_without_any_setting_it_says_how_to_begin() -> None:
    ran = run(sys.executable, "manage.py", "check")

    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "Configuration error: SECRET_KEY is not set: a long random string "
        "(for development set DEBUG=1)."
    ]


@pytest.mark.parametrize(("debug", "networks"), [("1", "['127.0.0.0/8', '::1/128']"), ("0", "[]")])
def test_development_reaches_receivers_on_this_machine(debug: str, networks: str) -> None:
    ran = run(
        sys.executable,
        "-c",
        "import config.settings as s; print([str(n) for n in s.WEBHOOKS_ALLOWED_NETWORKS])",
        DEBUG=debug,
        SECRET_KEY="x" * 60,
        ALLOWED_HOSTS="x.example",
        WEBHOOKS_ENCRYPTION_KEYS="MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        DATABASE_URL="postgres://u@127.0.0.1:1/n",
        REDIS_URL="redis://127.0.0.1:1/0",
    )

    assert ran.stdout.strip() == networks, ran.stderr


@pytest.mark.django_db
def test_the_front_page_and_a_plain_log_in_lead_to_the_admin(client: Client) -> None:
    User.objects.create_superuser("root", "root@example.com", "pass-word-1")

    assert client.get("/").headers["Location"] == "/admin/"
    logged_in = client.post("/admin/login/", {"username": "root", "password": "pass-word-1"})
    assert logged_in.headers["Location"] == "/admin/"
