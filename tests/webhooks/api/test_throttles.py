"""How often somebody may ask, and whom that is counted for (A8)."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from webhooks.doors import allowances
from webhooks.models import Webhook

LIMIT = 3


@pytest.fixture(autouse=True)
def _low_limits(settings: Any) -> None:
    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = dict.fromkeys(
        django_settings.WEBHOOKS_API_REQUESTS_PER_MINUTE, LIMIT
    ) | {"user": 1000}


def statuses(send: Callable[[], Any], times: int = LIMIT + 1) -> list[int]:
    return [send().status_code for _ in range(times)]


def test_token_has_a_limit_and_is_told_so(client: APIClient) -> None:
    assert statuses(lambda: client.get("/api/v1/webhooks"), LIMIT) == [200] * LIMIT

    refused = client.get("/api/v1/webhooks")

    assert refused.status_code == 429
    assert refused["Content-Type"] == "application/problem+json"
    assert refused["Retry-After"] == "50"
    assert refused["RateLimit"] == '"token";r=0;t=50'
    assert refused["RateLimit-Policy"] == '"token";q=3;w=60'


def test_remaining_requests_are_told(client: APIClient) -> None:
    assert client.get("/api/v1/webhooks")["RateLimit"] == '"token";r=2;t=50'


def test_limit_is_the_tokens_own(user: User, make_client: MakeClient) -> None:
    first, second = make_client(user), make_client(user)
    statuses(lambda: first.get("/api/v1/webhooks"))

    assert second.get("/api/v1/webhooks").status_code == 200


def test_minute_ends(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses(lambda: client.get("/api/v1/webhooks"))

    monkeypatch.setattr("webhooks.doors.allowances.time.time", lambda: 1_800_000_061.0)

    assert client.get("/api/v1/webhooks").status_code == 200


def test_secrets_and_tests_have_a_limit_of_the_user(
    user: User, make_client: MakeClient, make_webhook: Callable[..., Webhook], settings: Any
) -> None:
    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = settings.WEBHOOKS_API_REQUESTS_PER_MINUTE | {
        "token": 1000
    }
    webhook = make_webhook(timeout_seconds=1)
    path = f"/api/v1/webhooks/{webhook.public_id}/test"

    # More tokens do not help.
    sent = statuses(lambda: make_client(user).post(path))

    assert sent == [200, 200, 200, 429]


@pytest.mark.parametrize("proxies", [0, 1])
def test_invented_addresses_do_not_help(
    db: None, monkeypatch: pytest.MonkeyPatch, proxies: int
) -> None:
    monkeypatch.setattr(django_settings, "WEBHOOKS_TRUSTED_PROXIES", proxies)
    client = APIClient()
    numbers = iter(range(100))

    def guess() -> Any:
        # A proxy adds the address that it sees to whatever the client invents.
        forwarded = f"10.0.0.{next(numbers)}, 198.51.100.7"
        return client.get("/api/v1/webhooks", HTTP_X_FORWARDED_FOR=forwarded)

    assert statuses(guess) == [401, 401, 401, 429]


def test_clients_behind_a_proxy_are_told_apart(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "WEBHOOKS_TRUSTED_PROXIES", 1)
    client = APIClient()
    statuses(lambda: client.get("/api/v1/webhooks", HTTP_X_FORWARDED_FOR="198.51.100.7"))

    other = client.get("/api/v1/webhooks", HTTP_X_FORWARDED_FOR="198.51.100.8")

    assert other.status_code == 401


def test_guessing_passwords_is_limited_before_they_are_checked(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(django_settings.WEBHOOKS_API_REQUESTS_PER_MINUTE, "refused", 1000)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION="Basic YWRhOndyb25n")
    checked = []
    monkeypatch.setattr("rest_framework.authentication.authenticate", lambda **_: checked.append(1))

    assert statuses(lambda: client.post("/api/v1/tokens")) == [401, 401, 401, 429]
    assert len(checked) == LIMIT


# The admin's login page counts with them.


def log_in(password: str, **headers: str) -> Any:
    return Client().post(
        "/admin/login/?next=/admin/",
        {"username": "root", "password": password},
        **headers,  # type: ignore[arg-type]
    )


@pytest.fixture
def operator(staff: User) -> User:
    staff.set_password("right")
    staff.save(update_fields=["password"])
    return staff


def test_guessing_at_the_admin_is_limited_before_the_password_is_checked(operator: User) -> None:
    assert statuses(lambda: log_in("wrong"), LIMIT) == [200] * LIMIT

    refused = log_in("right")

    assert refused.status_code == 429
    assert refused["Retry-After"] == "50"
    assert "Try again in 50 seconds." in refused.content.decode()
    assert Client().get("/admin/login/").status_code == 200


def test_the_api_and_the_admin_count_tries_together(operator: User) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION="Basic YWRhOndyb25n")
    statuses(lambda: client.post("/api/v1/tokens"), LIMIT)

    assert log_in("right").status_code == 429


def test_operators_behind_a_proxy_are_told_apart(
    operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    invented = iter(range(100))

    def guess() -> Any:
        return log_in("wrong", HTTP_X_FORWARDED_FOR=f"10.0.0.{next(invented)}, 198.51.100.7")

    assert statuses(guess) == [200, 200, 200, 429]
    monkeypatch.setattr(django_settings, "WEBHOOKS_TRUSTED_PROXIES", 1)
    assert statuses(guess) == [200, 200, 200, 429]
    assert log_in("right", HTTP_X_FORWARDED_FOR="198.51.100.8").status_code == 302


def test_operators_log_in_while_valkey_is_away(
    operator: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(allowances, "counter", allowances.Counter())

    assert log_in("right")["Location"] == "/admin/"
    assert statuses(lambda: log_in("wrong"), LIMIT) == [200, 200, 429]


def test_counts_are_kept_in_valkey_for_all_processes() -> None:
    one, other = allowances.Counter(), allowances.Counter()
    key = "webhooks:requests:test:shared"
    one._client.delete(key)

    assert [one.hit(key), other.hit(key), one.hit(key)] == [1, 2, 3]
    assert 0 < one._client.ttl(key) <= allowances.WINDOW_SECONDS


def test_each_process_counts_for_itself_while_valkey_is_away(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    counter = allowances.Counter()

    assert [counter.hit("a"), counter.hit("a"), counter.hit("b")] == [1, 2, 1]


def test_busy_keys_are_counted_in_advance_but_never_twice() -> None:
    one, other = allowances.Counter(), allowances.Counter()
    key = "webhooks:requests:test:busy"
    one._client.delete(key)

    numbers = [counter.hit(key) for _ in range(600) for counter in (one, other)]

    assert len(set(numbers)) == 1200
    assert max(numbers) <= 1200 * (1 + 2 / allowances.STEPS)
    assert int(one._client.get(key)) >= max(numbers)


def test_threads_share_what_was_counted_in_advance() -> None:
    counter = allowances.Counter()
    counter._silent_until = float("inf")
    for _ in range(10_000):
        counter.hit("a")
    numbers: list[int] = []
    reserved = counter._known["a"][1] - 10_000
    assert reserved > 40

    threads = [
        threading.Thread(target=lambda: numbers.extend(counter.hit("a") for _ in range(10)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(numbers) == list(range(10_001, 10_041))


def test_local_counts_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowances, "MAX_KNOWN", 10)
    counter = allowances.Counter()
    counter._silent_until = float("inf")

    for number in range(100):
        counter.hit(str(number))

    assert len(counter._known) <= 10
