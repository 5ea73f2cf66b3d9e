"""Log lines: one per record, with the request's id, in the chosen form."""

import json
import logging
import os
import subprocess
import sys

import pytest

from config.logs import JsonFormatter, RequestIdFilter, _without_headers
from config.services import BASE_DIR
from webhooks.api.context import request_id


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("webhooks.x").makeRecord(
        "webhooks.x", logging.WARNING, __file__, 1, message, (), None, extra=extra
    )
    RequestIdFilter().filter(made)
    return made


def test_json_line_holds_message_extra_and_request_id() -> None:
    token = request_id.set("req-1")
    try:
        line = JsonFormatter().format(record("late\n“delivery”", delivery="del_1"))
    finally:
        request_id.reset(token)

    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == "late\n“delivery”"
    assert (told["level"], told["logger"]) == ("WARNING", "webhooks.x")
    assert (told["request_id"], told["delivery"]) == ("req-1", "del_1")


def test_outside_of_requests_there_is_no_id() -> None:
    assert "request_id" not in json.loads(JsonFormatter().format(record("x")))


def test_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)

    assert "\n" not in line
    assert "ValueError: no" in json.loads(line)["traceback"]


@pytest.mark.parametrize(("name", "value"), [("LOG_LEVEL", "LOUD"), ("LOG_FORMAT", "xml")])
def test_unknown_setting_stops_the_start_in_one_line(name: str, value: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import config.settings"],
        cwd=BASE_DIR,
        env={**os.environ, "DEBUG": "1", name: value},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode != 0
    assert ran.stderr.strip().splitlines()[-1].endswith(f"{name} must be one of " + CHOICES[name])


CHOICES = {"LOG_LEVEL": "INFO, DEBUG, WARNING, ERROR.", "LOG_FORMAT": "line, json."}

FAILING_SITE = """
import config.settings as settings
settings.MIDDLEWARE = [*settings.MIDDLEWARE, "tests.config.test_logs.crash"]
settings.ALLOWED_HOSTS = ["*"]
settings.SECURE_SSL_REDIRECT = False
import django
django.setup()
from django.test import Client
client = Client(raise_request_exception=False)
for path in ("/admin/x", "/api/v1/projects"):
    print(client.get(path, HTTP_X_REQUEST_ID="abc").status_code)
"""


def crash(get_response: object) -> object:
    """The innermost middleware, which fails every request."""

    def middleware(request: object) -> None:
        raise RuntimeError("broken on purpose")

    return middleware


def test_each_500_logs_one_line_with_its_request() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FAILING_SITE],
        cwd=BASE_DIR,
        env={**os.environ, "DEBUG": "0", "LOG_FORMAT": "json", "DJANGO_SETTINGS_MODULE": "config.settings",
             "SECRET_KEY": "x" * 60, "ALLOWED_HOSTS": "x.example",
             "WEBHOOKS_ENCRYPTION_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip

    assert ran.stdout.split() == ["500", "500"], ran.stderr
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [line["request_id"] for line in lines] == ["abc", "abc"]
    assert all("broken on purpose" in line["traceback"] for line in lines)


def test_keys_of_the_portal_are_hidden() -> None:
    key = "v3BkCcGitIDHQUufnVQzO5-Vm7_8YQOjnwDpBAR1ckk"
    made = logging.getLogger("django.request").makeRecord(
        "django.request", logging.ERROR, __file__, 1, "%s: %s",
        ("Internal Server Error", f"/portal/s/{key}/deliveries/"), None,
    )  # fmt: skip
    RequestIdFilter().filter(made)
    sent = _without_headers(
        {"request": {"url": f"https://x/portal/open/{key}/"}, "transaction": f"/portal/s/{key}/"},
        None,
    )

    assert made.getMessage() == "Internal Server Error: /portal/s/•••/deliveries/"
    assert sent == {
        "request": {"url": "https://x/portal/open/•••/"}, "transaction": "/portal/s/•••/"
    }  # fmt: skip
    assert "/portal/deliveries/" in record("/portal/deliveries/").getMessage()
