"""System checks of the security settings, one test per id (E101: test_secrets.py)."""

from copy import deepcopy
from ipaddress import ip_network
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import ConnectionHandler
from pytest_django import Settings

from projects.models import Project
from webhooks.models.owners import owner_model
from webhooks.repair import checks

SQLITE = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}


def test_w101_says_that_the_proxy_guards_addresses(settings: Settings) -> None:
    assert checks.check_proxy() == []

    settings.WEBHOOKS_PROXY_URL = "http://us:canary@proxy.example:4750"

    (warning,) = checks.check_proxy()
    assert warning.id == "webhooks.W101"
    assert "the proxy decides which addresses" in warning.msg
    assert "canary" not in f"{warning.msg} {warning.hint}"


def test_w102_names_networks_that_are_not_public(settings: Settings) -> None:
    settings.WEBHOOKS_ALLOWED_NETWORKS = [
        ip_network("93.184.216.0/24"),
        ip_network("2606:4700::/32"),
    ]
    assert checks.check_allowed_networks() == []

    settings.WEBHOOKS_ALLOWED_NETWORKS = [
        ip_network(network) for network in ("10.0.0.0/8", "0.0.0.0/0", "::/0", "::1/128", "100.0.0.0/8")
    ]  # fmt: skip

    (warning,) = checks.check_allowed_networks()
    assert warning.id == "webhooks.W102"
    assert warning.msg == (
        "WEBHOOKS_ALLOWED_NETWORKS lets users send requests into 10.0.0.0/8, 0.0.0.0/0, ::/0, "
        "::1/128, 100.0.0.0/8."
    )


def test_w103_asks_for_https(settings: Settings) -> None:
    settings.WEBHOOKS_REQUIRE_HTTPS = True
    assert checks.check_https_is_required() == []

    settings.WEBHOOKS_REQUIRE_HTTPS = False

    (warning,) = checks.check_https_is_required()
    assert warning.id == "webhooks.W103"


def test_deployment_checks_run_only_when_asked_for(settings: Settings, db: None) -> None:
    settings.WEBHOOKS_REQUIRE_HTTPS = False
    settings.WEBHOOKS_PROXY_URL = "http://proxy.example:4750"

    usual = {message.id for message in run_checks()}
    deployed = {message.id for message in run_checks(include_deployment_checks=True)}

    assert {name for name in usual if str(name).startswith("webhooks.")} == {"webhooks.W101"}
    assert {"webhooks.W101", "webhooks.W102", "webhooks.W103"} <= deployed


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ([], "is empty"),
        ([b"k" * 31], "holds a key that is no 32 bytes"),
        ([b"k" * 32, "k" * 32], "holds a key that is no 32 bytes"),
    ],
)
def test_e106_shows_the_line_that_sets_a_new_key(
    keys: list[Any], problem: str, settings: Settings
) -> None:
    assert checks.check_keys_are_set() == []
    settings.WEBHOOKS_ENCRYPTION_KEYS = keys

    (error,) = checks.check_keys_are_set()

    assert (error.id, problem in error.msg) == ("webhooks.E106", True)
    names: dict[str, Any] = {}
    exec(str(error.hint).split(": ")[1], names)  # noqa: S102 - the line that we tell people to add
    settings.WEBHOOKS_ENCRYPTION_KEYS = names["WEBHOOKS_ENCRYPTION_KEYS"]
    assert checks.check_keys_are_set() == []


def test_e107_wants_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_postgres() == []
    monkeypatch.setattr(checks, "connection", ConnectionHandler(SQLITE)["default"])

    (error,) = checks.check_postgres()

    assert error.id == "webhooks.E107"
    assert error.msg == "The default database is SQLite; webhooks need Postgres 15 or newer."


def test_e109_wants_times_with_a_zone(settings: Settings, db: None) -> None:
    assert checks.check_time_zone() == []
    settings.USE_TZ = False

    found = [one for one in run_checks(tags=["webhooks"]) if one.id == "webhooks.E109"]

    assert [one.hint for one in found] == ["Set USE_TZ = True."]


def test_w105_shows_the_line_for_the_operators_screens(settings: Settings) -> None:
    assert checks.check_template_libraries() == []
    templates = deepcopy(settings.TEMPLATES)
    del templates[0]["OPTIONS"]["libraries"]
    settings.TEMPLATES = templates

    (warning,) = checks.check_template_libraries()

    assert warning.id == "webhooks.W105"
    names = {"TEMPLATES": deepcopy(templates)}
    exec(str(warning.hint).split("TEMPLATES: ")[1], names)  # noqa: S102 - the line that we tell people to add
    settings.TEMPLATES = names["TEMPLATES"]
    assert checks.check_template_libraries() == []


@pytest.mark.parametrize(
    ("apps", "urls", "pages"),
    [
        ({"django.contrib.admin"}, "django.contrib.auth.urls", "the operators' screens in the admin."),
        (set(), "webhooks.portal.urls", "the portal."),
        ({"django.contrib.admin"}, "webhooks.portal.urls", "the operators' screens in the admin, the portal."),
        ({"rest_framework"}, "django.contrib.auth.urls", None),
        (set(), None, None),
    ],
)  # fmt: skip
def test_w105_names_the_pages_that_lack_tags(
    apps: set[str], urls: str | None, pages: str | None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("django.apps.apps.is_installed", apps.__contains__)
    settings.TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
    settings.ROOT_URLCONF = urls

    found = [str(one.msg).split(": ")[1] for one in checks.check_template_libraries()]

    assert found == ([] if pages is None else [pages])


def test_e102_compares_the_user_models_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_owner_key() == []

    monkeypatch.setattr(checks, "SQL_TYPE", "bigint")

    (error,) = checks.check_owner_key()
    assert (error.id, error.msg) == (
        "webhooks.E102",
        "The primary key of projects.User is of the type uuid, and WEBHOOKS_OWNER_KEY is 'bigint'.",
    )
    assert error.hint is not None
    assert error.hint.startswith("Set WEBHOOKS_OWNER_KEY = 'uuid'")


@pytest.mark.parametrize(
    ("is_active", "errors"), [(True, []), (property(lambda self: True), ["webhooks.E103"])]
)
def test_e103_wants_a_column_is_active(
    is_active: object, errors: list[str], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """A model without one has active owners only; a property is no column that workers can read."""
    assert checks.check_active_owners() == []

    settings.WEBHOOKS_OWNER_MODEL = "projects.Project"
    assert checks.check_active_owners() == []
    monkeypatch.setattr(Project, "is_active", is_active, raising=False)

    assert [error.id for error in checks.check_active_owners()] == errors


@pytest.mark.parametrize(
    ("model", "function", "ids"),
    [
        ("projects.User", None, []),
        ("projects.Project", None, ["webhooks.W104"]),
        ("projects.Project", "webhooks.doors.owners.owner_of", []),
        ("projects.Project", "webhooks.doors.owners.owner", ["webhooks.E105"]),
        ("projects.Project", "nothing", ["webhooks.E105"]),
        ("projects.Project", "webhooks.doors.owners.settings", ["webhooks.E105"]),
    ],
)
def test_a_request_must_have_an_owner(
    model: str, function: str | None, ids: list[str], settings: Settings
) -> None:
    settings.WEBHOOKS_OWNER_MODEL = model
    settings.WEBHOOKS_OWNER_OF_REQUEST = function

    assert [one.id for one in checks.check_owner_of_request()] == ids


@pytest.mark.parametrize("name", ["projects.Nothing", "nothing.Team", "Team"])
def test_an_owner_model_that_is_none_is_named(name: str, settings: Settings) -> None:
    settings.WEBHOOKS_OWNER_MODEL = name

    with pytest.raises(ImproperlyConfigured, match=f"WEBHOOKS_OWNER_MODEL is '{name}'"):
        owner_model()


def test_e104_names_the_missing_packages_of_rq(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checks.check_wakeup_packages() == []

    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "rq" else object())

    (error,) = checks.check_wakeup_packages()
    assert (error.id, error.msg) == (
        "webhooks.E104",
        "WEBHOOKS_WAKEUP is rq, and these packages are missing: rq.",
    )
    settings.REDIS_URL = ""
    assert [one.msg for one in checks.check_wakeup_packages()] == [
        "WEBHOOKS_WAKEUP is rq, and REDIS_URL is not set."
    ]
    settings.WEBHOOKS_WAKEUP = "poll"
    assert checks.check_wakeup_packages() == []
