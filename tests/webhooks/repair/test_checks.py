"""System checks of the security settings, one test per id (E101: test_secrets.py)."""

from ipaddress import ip_network

from django.core.checks import run_checks
from pytest_django import Settings

from webhooks.repair import checks


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
