"""Settings from the environment: an invalid value stops the start with an error of one line."""

import runpy
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from config.services import BASE_DIR
from config.settings_page import REQUIRED

WRONG = {
    "WEBHOOKS_RETENTION_DAYS": ["-1", "1.5", "ever", "", "36526"],
    "WEBHOOKS_AUDIT_RETENTION_DAYS": ["-1", "1.5", "ever", "", "36526"],
    "WEBHOOKS_DISABLE_AFTER_DAYS": ["0", "-1", "nan", "inf", "ever", "", "36525.1"],
    "WEBHOOKS_MAX_PER_OWNER": ["-1", "many", ""],
    "WEBHOOKS_API_REQUESTS_PER_MINUTE": ["0", "-1", "many"],
    "NUM_PROXIES": ["-1", "none"],
}


def load() -> dict[str, Any]:
    return runpy.run_path(str(BASE_DIR / "config" / "settings.py"))


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_number_that_cannot_be_meant_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ImproperlyConfigured) as refused:
        load()

    assert str(refused.value).startswith(f"{name} must be a ")
    assert "\n" not in str(refused.value)


def test_error_names_the_allowed_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOKS_RETENTION_DAYS", "-1")

    with pytest.raises(ImproperlyConfigured) as refused:
        load()

    assert str(refused.value) == (
        "WEBHOOKS_RETENTION_DAYS must be a whole number from 0 to 36,525."
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WEBHOOKS_RETENTION_DAYS", "0", 0),
        ("WEBHOOKS_RETENTION_DAYS", "36525", 36_525),
        ("WEBHOOKS_AUDIT_RETENTION_DAYS", "0", 0),
        ("WEBHOOKS_DISABLE_AFTER_DAYS", "0.5", 0.5),
        ("WEBHOOKS_MAX_PER_OWNER", "0", 0),
    ],
)
def test_number_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: float
) -> None:
    monkeypatch.setenv(name, value)

    assert load()[name] == expected


@pytest.mark.parametrize("value", ["", "a b", "a,b", "a:b", "ä", "x" * 101, "a\nb"])
def test_queue_name_that_rq_cannot_use_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("WEBHOOKS_QUEUE", value)

    with pytest.raises(ImproperlyConfigured, match=r"^WEBHOOKS_QUEUE must be a name of at most"):
        load()


@pytest.mark.parametrize("name", ["default", "webhooks.high-1"])
def test_queue_is_known_to_rq_beside_the_default_one(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("WEBHOOKS_QUEUE", name)

    assert set(load()["RQ_QUEUES"]) == {"default", name}


@pytest.mark.parametrize(
    "value", ["*", "null", "example.com", "https://example.com/", "https://E.com"]
)
def test_origin_that_no_browser_sends_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("WEBHOOKS_CORS_ORIGINS", f"https://a.example,{value}")

    with pytest.raises(ImproperlyConfigured, match=r"^WEBHOOKS_CORS_ORIGINS: "):
        load()


PORTAL_WRONG = {
    "WEBHOOKS_PORTAL_ACCENT": ["red", "#fff", "#4f46e5;", ""],
    "WEBHOOKS_PORTAL_LOGO": ["logo.svg", "https://example.com/logo.svg", "/a b.svg"],
    "WEBHOOKS_PORTAL_COLOR_SCHEME": ["sepia", ""],
    "WEBHOOKS_PORTAL_FRAME_ANCESTORS": ["*", "https://*", "https://a.example/x", "'self'"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in PORTAL_WRONG.items() for value in values]
)
def test_value_that_the_portal_cannot_show_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ImproperlyConfigured, match=f"^{name}.*(must be|is not of the form)"):
        load()


def test_portal_may_be_framed_by_subdomains(monkeypatch: pytest.MonkeyPatch) -> None:
    origins = ["https://app.example.com", "https://*.example.com:8443"]
    monkeypatch.setenv("WEBHOOKS_PORTAL_FRAME_ANCESTORS", ",".join(origins))

    assert load()["WEBHOOKS_PORTAL_FRAME_ANCESTORS"] == origins


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CELL_NAME", "Cell A", "CELL_NAME must be a name of at most 30 small letters"),
        ("CELLS_DATABASES", "postgres://host/a", "CELLS_DATABASES must be JSON of the form"),
        ("CELLS_DATABASES", '["a"]', "CELLS_DATABASES must be JSON of the form"),
        ("CELLS_DATABASES", '{"a": "mysql://host/a"}', "^CELLS_DATABASES must be the URL"),
        ("CELLS_NATS_URL", "foo://a:4222", "^CELLS_NATS_URL must be of the form"),
        ("CELLS_NATS_URL", "nats://a:4222,nats://b:x", "^CELLS_NATS_URL must be of the form"),
    ],
)
def test_cells_that_nobody_can_find_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ImproperlyConfigured, match=message):
        load()


def test_cells_are_off_without_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELL_NAME", "a")
    alone = load()
    monkeypatch.setenv("CELLS_NATS_URL", "nats://127.0.0.1:4222")
    one_of_several = load()

    assert "cells" not in alone["INSTALLED_APPS"]
    assert not {"WEBHOOKS_OWNER_MARK", "WEBHOOKS_OWNER_HELD"} & alone.keys()
    assert "cells.middleware.CellMiddleware" not in alone["MIDDLEWARE"]
    assert "cells" in one_of_several["INSTALLED_APPS"]
    assert "cells.middleware.CellMiddleware" in one_of_several["MIDDLEWARE"]


FLAGS = [
    "DEBUG", "WEBHOOKS_REQUIRE_HTTPS", "WEBHOOKS_TRACING", "WEBHOOKS_SEND_TRACEPARENT",
]  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["maybe", "", "enabled", "2"])
def test_flag_that_says_neither_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ImproperlyConfigured, match=f"^{name} must be 1 or 0.$"):
        load()


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), (" True", True), ("off", False), ("No", False)]
)
def test_flag_is_read(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("WEBHOOKS_REQUIRE_HTTPS", value)

    assert load()["WEBHOOKS_REQUIRE_HTTPS"] is expected


@pytest.mark.parametrize("value", ["HTTP_X_FORWARDED_PROTO", "X-Forwarded-Proto: https", "ä"])
def test_header_that_no_proxy_sends_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name, text in REQUIRED.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("DEBUG", "0")
    monkeypatch.setenv("SECURE_PROXY_SSL_HEADER", "x-forwarded-proto")
    assert load()["SECURE_PROXY_SSL_HEADER"] == ("HTTP_X_FORWARDED_PROTO", "https")
    monkeypatch.setenv("SECURE_PROXY_SSL_HEADER", value)

    with pytest.raises(ImproperlyConfigured, match=r"^SECURE_PROXY_SSL_HEADER must be a header"):
        load()


@pytest.mark.parametrize("name", ["ALLOWED_HOSTS", "WEBHOOKS_OWN_HOSTS", "WEBHOOKS_JOB_MODULES"])
def test_items_of_a_list_may_be_apart(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "a.example.com, b.example.com ,")

    assert load()[name] == ["a.example.com", "b.example.com"]


@pytest.mark.parametrize("name", ["SECRET_KEY", "METRICS_TOKEN", "WEBHOOKS_PORTAL_NAME"])
@pytest.mark.parametrize("value", ["$HOME", "$$a", "\\$a"])
def test_dollar_is_a_character(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    assert load()[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMAIL_URL", "foo://secret"),
        ("EMAIL_URL", "smtp://secret:secret"),
        ("EMAIL_URL", ""),
        ("SENTRY_DSN", "secret"),
    ],
)
@pytest.mark.filterwarnings("ignore:The send_default_pii")
def test_url_that_leads_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ImproperlyConfigured, match=f"^{name} must be of the form") as refused:
        load()

    assert "secret" not in str(refused.value)
