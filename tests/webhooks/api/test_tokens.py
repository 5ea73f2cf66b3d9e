"""Tokens: made with a password, shown once, hashed at rest, limited in scope and time (A9)."""

import time
from base64 import b64encode
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from projects.models import User
from tests.concurrency import in_thread, wait_for_lock
from tests.webhooks.api.conftest import MakeClient
from webhooks.api import authentication
from webhooks.models import ApiToken

PASSWORD = "correct horse battery staple"


def login(user: User, password: str = PASSWORD) -> APIClient:
    user.set_password(PASSWORD)
    user.save(update_fields=["password"])
    client = APIClient()
    credentials = b64encode(f"{user.username}:{password}".encode()).decode()
    client.credentials(HTTP_AUTHORIZATION=f"Basic {credentials}")
    return client


def bearer(token: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


@pytest.fixture(autouse=True)
def _fast_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def test_token_is_shown_once_and_works(user: User) -> None:
    created = login(user).post("/api/v1/tokens", {"name": "CI", "scopes": ["write", "read"]})

    assert created.status_code == 201
    token = created.json()["token"]
    assert token.startswith("rdai_")
    assert len(token) == 5 + 64
    assert created.json()["scopes"] == ["read", "write"]
    listed = bearer(token).get("/api/v1/tokens").json()["results"]
    assert [one["name"] for one in listed] == ["CI"]
    assert "token" not in listed[0]


def test_token_is_nowhere_in_the_database(user: User) -> None:
    token = login(user).post("/api/v1/tokens", {"name": "CI", "scopes": ["read"]}).json()["token"]

    with connection.cursor() as cursor:
        cursor.execute("SELECT t::text FROM webhooks_apitoken t")
        stored = cursor.fetchone()[0]
    assert token not in stored
    assert token[16:] not in stored


def test_token_expires(user: User) -> None:
    body = {"name": "CI", "scopes": ["read"], "expiresInDays": 30}
    created = login(user).post("/api/v1/tokens", body).json()

    token = ApiToken.objects.get()
    assert token.expiry is not None
    assert abs(token.expiry - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    assert bearer(created["token"]).get("/api/v1/webhooks").status_code == 200
    ApiToken.objects.update(expiry=timezone.now())
    assert bearer(created["token"]).get("/api/v1/webhooks").status_code == 401
    assert ApiToken.objects.exists()


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["admin"]}, "/scopes/0"),
        ({"name": ""}, "/name"),
        ({"expiresInDays": 0}, "/expiresInDays"),
        ({"expiresInDays": 366}, "/expiresInDays"),
        ({"userId": 1}, "/userId"),
        ({"digest": "x"}, "/digest"),
        ({"token": "x"}, "/token"),
    ],
)
def test_bad_wish_is_refused(user: User, fields: dict[str, Any], pointer: str) -> None:
    response = login(user).post("/api/v1/tokens", {"name": "CI", "scopes": ["read"]} | fields)

    assert response.status_code == 400
    assert [one["pointer"] for one in response.json()["errors"]] == [pointer]
    assert not ApiToken.objects.exists()


def test_wrong_password_and_unknown_user_look_the_same(user: User, other_user: User) -> None:
    known = login(user, "wrong").post("/api/v1/tokens", {})
    client = login(other_user)
    other_user.delete()
    unknown = client.post("/api/v1/tokens", {})

    for response in (known, unknown):
        assert response.status_code == 401
        assert response["WWW-Authenticate"] == 'Basic realm="tokens"'
    assert known.json()["detail"] == unknown.json()["detail"]


@pytest.mark.parametrize(
    "credentials", [b"eve\0:x", b"eve:\0", "\ud800:x".encode(errors="surrogatepass")]
)
def test_what_no_name_can_hold_is_a_wrong_name(db: None, credentials: bytes) -> None:
    answers = []
    for sent in (credentials, b"nobody:x"):
        client = APIClient(raise_request_exception=False)
        client.credentials(HTTP_AUTHORIZATION=f"Basic {b64encode(sent).decode()}")
        answers.append(client.post("/api/v1/tokens", {}))

    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].json()["detail"] == answers[1].json()["detail"]


@pytest.mark.parametrize("token", ["rdai_\0", "\0", "rdai_\x01", "rdai_\u00e9"])
def test_what_no_token_can_hold_is_an_unknown_token(db: None, token: str) -> None:
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")

    answer = client.get("/api/v1/webhooks")

    refusal = authentication.REFUSAL.format(tokens="/api/v1/tokens")
    assert (answer.status_code, answer.json()["detail"]) == (401, refusal)


@pytest.mark.parametrize("name", ["eve%00", "%ED%A0%80", "%FF"])
def test_what_no_name_can_hold_is_a_wrong_name_in_the_admin(db: None, name: str) -> None:
    answer = Client().post(
        "/admin/login/",
        f"username={name}&password={name}",
        content_type="application/x-www-form-urlencoded",
    )

    assert answer.status_code == 200
    assert answer.context["form"].errors


def test_password_opens_nothing_else(user: User) -> None:
    client = login(user)

    assert client.get("/api/v1/tokens").status_code == 401
    assert client.get("/api/v1/webhooks").status_code == 401


def test_token_makes_no_token(client: APIClient) -> None:
    assert client.post("/api/v1/tokens", {"name": "x", "scopes": ["read"]}).status_code == 401


def test_service_tokens_are_for_staff(user: User, staff: User) -> None:
    wish = {"name": "billing", "scopes": ["trigger"], "isService": True}

    assert login(user).post("/api/v1/tokens", wish).status_code == 403
    assert login(staff).post("/api/v1/tokens", wish).json()["isService"] is True


def test_revoked_token_is_refused_at_once(user: User, make_token: Any) -> None:
    token, other = make_token(user), make_token(user)
    revoked = ApiToken.objects.get(token_key=token[:15])

    assert bearer(other).delete(f"/api/v1/tokens/{revoked.public_id}").status_code == 204
    assert bearer(token).get("/api/v1/webhooks").status_code == 401


def test_token_is_read_anew_after_a_second(
    user: User, client: APIClient, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(authentication, "KNOWN_SECONDS", 1.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(2):
        client.get("/api/v1/event-types")
    with django_assert_num_queries(0):
        assert client.get("/api/v1/event-types").status_code == 200
    User.objects.filter(id=user.id).update(is_active=False)

    statuses = []
    for clock[0] in (1000.9, 1001.0):
        statuses.append(client.get("/api/v1/event-types").status_code)

    assert statuses == [200, 401]


def test_what_a_request_does_to_its_user_stays_with_it(user: User, make_token: Any) -> None:
    authentication.KNOWN_SECONDS = 1.0
    token = make_token(user)

    first, second = authentication.tokens.get(token), authentication.tokens.get(token)

    assert first is not None
    assert second is not None
    assert first == second
    assert first is not second
    assert first.user is not second.user


def test_token_of_an_inactive_user_is_refused(user: User, client: APIClient) -> None:
    User.objects.filter(id=user.id).update(is_active=False)

    assert client.get("/api/v1/webhooks").status_code == 401


@pytest.mark.parametrize("scope", ["read", "write", "trigger"])
def test_scope_allows_its_own_methods_only(user: User, make_client: MakeClient, scope: str) -> None:
    client = make_client(user, scope)

    statuses = {
        "read": client.get("/api/v1/webhooks").status_code,
        "write": client.post("/api/v1/projects", {"name": "x"}).status_code,
        "trigger": client.post("/api/v1/events", {}).status_code,
    }

    allowed = {"read": 200, "write": 201, "trigger": 400}
    assert statuses == {name: code if name == scope else 403 for name, code in allowed.items()}


def test_last_use_is_noted_to_the_minute(client: APIClient, django_assert_num_queries: Any) -> None:
    client.get("/api/v1/event-types")
    noted = ApiToken.objects.get().last_used_at

    with django_assert_num_queries(1):
        client.get("/api/v1/event-types")

    assert ApiToken.objects.get().last_used_at == noted is not None


def test_not_more_than_fifty(user: User, make_token: Any) -> None:
    for _ in range(50):
        make_token(user)

    response = login(user).post("/api/v1/tokens", {"name": "x", "scopes": ["read"]})

    assert response.status_code == 409
    assert "revoke one" in response.json()["detail"]


@pytest.mark.django_db(transaction=True)
def test_the_fiftieth_token_is_made_once(user: User, make_token: Any) -> None:
    for _ in range(49):
        make_token(user)
    client = login(user)
    responses = []
    wish = {"name": "x", "scopes": ["read"]}
    with transaction.atomic():
        ApiToken.objects.make_room(user)
        make_token(user)
        other = in_thread(lambda: responses.append(client.post("/api/v1/tokens", wish)))
        wait_for_lock()
    other.join()

    assert responses[0].status_code == 409
    assert ApiToken.objects.count() == 50


def test_current_token_is_shown_to_its_bearer(user: User, make_client: MakeClient) -> None:
    shown = make_client(user, "read").get("/api/v1/tokens/current").json()

    token = ApiToken.objects.get()
    assert (shown["id"], shown["scopes"]) == (token.public_id, ["read"])
    assert "token" not in shown
