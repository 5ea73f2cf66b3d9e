"""A password alone shows no secret of an account that has a second factor, at any door."""

import re
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django_otp.oath import TOTP
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import _fresh_counters  # noqa: F401
from webhooks.doors import second_factor
from webhooks.models import ApiToken, AuditEntry, Webhook
from webhooks.repair import checks

PASSWORD = "a long password 1"
PAGE = "/admin/webhooks/webhook/second-factor/"
CONFIRM = f"{PAGE}confirm/"
NOW = 1_800_000_010.0


@pytest.fixture
def root(db: None) -> User:
    user: User = User.objects.create_superuser("root", "root@example.com", PASSWORD)
    return user


@pytest.fixture
def root_client(root: User) -> Client:
    client = Client()
    client.force_login(root)
    return client


@pytest.fixture(autouse=True)
def _same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No code, and no minute of tries, ends in the middle of a test."""
    monkeypatch.setattr(time, "time", lambda: NOW)


@pytest.fixture
def device(root: User) -> TOTPDevice:
    device: TOTPDevice = TOTPDevice.objects.create(user=root, name="authenticator")
    recovery = StaticDevice.objects.create(user=root, name="recovery codes")
    StaticToken.objects.create(device=recovery, token="abcd2345")
    return device


def code_of(device: TOTPDevice, at: float = NOW) -> str:
    totp = TOTP(device.bin_key)
    totp.time = at
    return f"{totp.token():06d}"


def wrong_code(device: TOTPDevice) -> str:
    valid = {code_of(device, NOW + 30 * step) for step in (-1, 0, 1)}
    return next(code for code in ("000000", "111111", "222222", "333333") if code not in valid)


class Door:
    """A place that asks for the password again."""

    def __init__(self, name: str, root: User, webhook: Webhook, root_client: Client) -> None:
        self.name, self.root, self.webhook, self.root_client = name, root, webhook, root_client

    def knock(self, code: str | None, password: str = PASSWORD) -> bool:
        """Ask for what is secret, and return whether the answer shows it."""
        codes = {} if code is None else {"code": code}
        token = {"name": "x", "scopes": ["read"], "days": 1, "user": self.root.email}
        if self.name == "reveal":
            page = f"/admin/webhooks/webhook/{self.webhook.pk}/reveal-secrets/"
            answer = self.root_client.post(page, {"reason": "x", "password": password} | codes)
            return b"whsec_" in answer.content
        if self.name in ("admin token", "portal token"):
            is_admin = self.name == "admin token"
            page = reverse("admin:webhooks_apitoken_new" if is_admin else "portal:add-token")
            answer = self.root_client.post(page, token | {"password": password} | codes)
            return b"rdai_" in answer.content
        client = APIClient()
        pair = b64encode(f"{self.root.username}:{password}".encode()).decode()
        headers = {} if code is None else {"HTTP_X_ONE_TIME_CODE": code}
        client.credentials(HTTP_AUTHORIZATION=f"Basic {pair}", **headers)
        status = client.post("/api/v1/tokens", {"name": "x", "scopes": ["read"]}).status_code
        assert status in (201, 401, 403)
        return bool(status == 201)


DOORS = ("reveal", "admin token", "portal token", "API token")


@pytest.fixture(params=DOORS)
def door(
    request: pytest.FixtureRequest,
    root: User,
    make_webhook: Callable[..., Webhook],
    root_client: Client,
) -> Door:
    return Door(request.param, root, make_webhook(), root_client)


def test_password_is_enough_without_a_second_factor(door: Door) -> None:
    assert not door.knock(None, "guess")
    assert door.knock(None)


WRONG: list[str | None] = [None, "", "12345", "0" * 6, "abcd2346", "x\0", "１２３４５６", "9" * 19]


@pytest.mark.parametrize("code", WRONG)
def test_wrong_code_shows_nothing(door: Door, device: TOTPDevice, code: str | None) -> None:
    if code == "0" * 6:
        code = wrong_code(device)
    assert not door.knock(code)
    assert ApiToken.objects.count() == 0


def test_code_counts_once(door: Door, device: TOTPDevice) -> None:
    code = code_of(device)
    assert not door.knock(code, "guess")
    assert door.knock(code)
    assert not door.knock(code)


def test_recovery_code_counts_once(door: Door, device: TOTPDevice) -> None:
    assert door.knock("ABCD 2345")
    assert not door.knock("abcd2345")
    assert not StaticToken.objects.exists()


def test_each_wrong_code_doubles_the_pause_and_is_written_down(
    door: Door, device: TOTPDevice
) -> None:
    assert not door.knock(wrong_code(device))
    device.refresh_from_db()
    assert device.throttling_failure_count == 1
    # The pause: even the right one is refused.
    assert not door.knock(code_of(device))
    actions = {"secret.refuse", "password.refuse", "secondfactor.refuse"}
    refused = AuditEntry.objects.filter(action__in=actions, actor_id=door.root.pk)
    assert refused.count() == 2


def test_off_asks_nobody(door: Door, device: TOTPDevice, settings: Any) -> None:
    settings.WEBHOOKS_SECOND_FACTOR = "off"
    assert door.knock(None)


def test_required_refuses_staff_without_one(door: Door, settings: Any) -> None:
    settings.WEBHOOKS_SECOND_FACTOR = "required"
    assert not door.knock(None)
    TOTPDevice.objects.create(user=door.root, name="not confirmed", confirmed=False)
    assert not door.knock(None)


def test_who_must_have_one_can_set_it_up(root_client: Client, settings: Any) -> None:
    settings.WEBHOOKS_SECOND_FACTOR = "required"
    device = set_up(root_client)
    assert root_client.post(CONFIRM, {"code": code_of(device)}).status_code == 200
    assert TOTPDevice.objects.filter(confirmed=True).exists()


def test_required_leaves_customers_alone(user: User, settings: Any) -> None:
    settings.WEBHOOKS_SECOND_FACTOR = "required"
    assert not second_factor.is_missing(user)


@pytest.mark.django_db(transaction=True)
def test_one_code_at_many_doors_at_once_counts_once(root: User, device: TOTPDevice) -> None:
    code, barrier = code_of(device), Barrier(8)

    def use(_: int) -> bool:
        barrier.wait()
        try:
            return second_factor.accepts(root, code)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(use, range(8))) == 1


def set_up(root_client: Client) -> TOTPDevice:
    answer = root_client.post(PAGE, {"password": PASSWORD})
    assert "no-store" in answer["Cache-Control"]
    device: TOTPDevice = TOTPDevice.objects.get()
    assert device.config_url.replace("&", "&amp;") in answer.content.decode()
    return device


def test_second_factor_is_set_up_and_removed(root_client: Client, root: User) -> None:
    device = set_up(root_client)
    assert not second_factor.is_asked(root)
    assert root_client.post(CONFIRM, {"code": wrong_code(device)}).status_code == 422
    assert not second_factor.is_asked(root)
    TOTPDevice.objects.update(throttling_failure_count=0)

    shown = root_client.post(CONFIRM, {"code": code_of(device)})

    assert "no-store" in shown["Cache-Control"]
    codes = re.findall(r"\b[a-z2-7]{8}\b", shown.context["values"][0][1])
    assert all(code in shown.content.decode() for code in codes)
    assert len(set(codes)) == 10
    assert second_factor.is_asked(root)
    pages = [root_client.get(one).content.decode() for one in (PAGE, CONFIRM)]
    assert not any(secret in page for page in pages for secret in (*codes, device.key))
    # Nobody removes it with the password alone, or replaces it.
    for page in (PAGE, CONFIRM):
        root_client.post(page, {"password": PASSWORD, "code": wrong_code(device)})
        assert TOTPDevice.objects.get().pk == device.pk

    TOTPDevice.objects.update(throttling_failure_count=0)
    removed = root_client.post(PAGE, {"password": PASSWORD, "code": codes[3]})

    assert removed.status_code == 302
    assert not TOTPDevice.objects.exists()
    assert not StaticToken.objects.exists()
    assert list(AuditEntry.objects.order_by("id").values_list("action", flat=True)) == [
        "secondfactor.refuse", "secondfactor.add", "password.refuse", "secondfactor.remove",
    ]  # fmt: skip
    assert not any(device.key in str(one.changes) for one in AuditEntry.objects.all())


def test_wrong_password_sets_nothing_up(root_client: Client) -> None:
    assert root_client.post(PAGE, {"password": "guess"}).status_code == 422
    assert not TOTPDevice.objects.exists()
    assert root_client.post(CONFIRM, {"code": "123456"}).status_code == 302


def test_guesses_are_few(root_client: Client, device: TOTPDevice) -> None:
    codes = [
        root_client.post(PAGE, {"password": PASSWORD, "code": "1"}).status_code for _ in range(30)
    ]
    assert codes == [422] * 10 + [429] * 20


def test_pages_are_for_staff(db: None) -> None:
    customer = Client()
    customer.force_login(User.objects.create_user("eve", "eve@example.com", PASSWORD))
    for page in (PAGE, CONFIRM):
        assert customer.post(page, {"password": PASSWORD, "code": "1"}).status_code == 302
    assert not TOTPDevice.objects.exists()


def test_project_that_requires_one_and_cannot_have_one_is_told(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOKS_SECOND_FACTOR = "required"
    assert checks.check_second_factor() == []
    monkeypatch.setattr(checks, "SECOND_FACTOR_APPS", ("not_installed",))
    assert [one.id for one in checks.check_second_factor()] == ["webhooks.E108"]
