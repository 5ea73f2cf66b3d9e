"""`Idempotency-Key`: one effect and one answer, however often the request comes."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from projects.models import Project, User
from tests.webhooks.api.conftest import MakeClient, authorization_of
from webhooks.models import IdempotentAnswer, Webhook

NEW = {"name": "Orders", "url": "http://127.0.0.1:9/", "events": ["*"]}


def post(client: APIClient, body: Any = NEW, key: str = "key-1", path: str = "webhooks") -> Any:
    return client.post(f"/api/v1/{path}", body, headers={"Idempotency-Key": key})


def make_older(age: timedelta) -> None:
    IdempotentAnswer.objects.update(created_at=timezone.now() - age)


def test_same_request_has_one_effect_and_one_answer(client: APIClient) -> None:
    first, second = post(client), post(client)

    assert first.status_code == second.status_code == 201
    assert second.content == first.content
    assert "secret" in second.json()
    assert "Idempotency-Replayed" not in first
    assert second["Idempotency-Replayed"] == "true"
    assert Webhook.objects.count() == 1


def test_answer_is_stored_encrypted(client: APIClient) -> None:
    secret = post(client).json()["secret"]

    with connection.cursor() as cursor:
        cursor.execute("SELECT encode(answer_encrypted, 'escape') FROM webhooks_idempotentanswer")
        stored = cursor.fetchone()[0]
    assert secret not in stored
    assert "whk_" not in stored


def test_other_request_with_the_key_is_a_conflict(client: APIClient) -> None:
    post(client)

    for response in (
        post(client, NEW | {"name": "Other"}),
        post(client, {"name": "x"}, path="projects"),
    ):
        assert response.status_code == 409
        assert response.json()["type"].endswith("idempotency-conflict")
    assert Webhook.objects.count() == 1
    assert not Project.objects.exists()


def test_keys_belong_to_their_user(
    client: APIClient, other_user: User, make_client: MakeClient
) -> None:
    first, second = post(client), post(make_client(other_user))

    assert first.json()["id"] != second.json()["id"]
    assert Webhook.objects.count() == 2


def test_another_token_of_the_user_gets_the_answer_only_with_the_scope(
    client: APIClient, user: User, make_client: MakeClient
) -> None:
    post(client)

    assert post(make_client(user, "write")).json()["secret"]
    assert post(make_client(user, "read")).status_code == 403


def test_refused_request_frees_its_key(client: APIClient) -> None:
    refused = post(client, NEW | {"url": "nonsense"})

    assert refused.status_code == 400
    assert not IdempotentAnswer.objects.exists()
    assert post(client).status_code == 201


def test_crash_frees_the_key_and_undoes_the_effect(
    client: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.raise_request_exception = False
    with monkeypatch.context() as broken:
        broken.setattr("webhooks.api.idempotency.encrypt", lambda *_: 1 / 0)
        assert post(client).status_code == 500

    assert not Webhook.objects.exists()
    assert not IdempotentAnswer.objects.exists()
    assert post(client).status_code == 201


@pytest.mark.parametrize("body", [NEW, NEW | {"name": "Other"}])
def test_key_is_forgotten_after_a_day(client: APIClient, body: Any) -> None:
    post(client)
    make_older(timedelta(hours=24))

    fresh, again = post(client, body), post(client, body)

    assert "Idempotency-Replayed" not in fresh
    assert fresh.status_code == 201
    assert again.content == fresh.content
    assert Webhook.objects.count() == 2
    assert IdempotentAnswer.objects.get().created_at > timezone.now() - timedelta(minutes=1)


def test_key_is_known_until_then(client: APIClient) -> None:
    first = post(client)
    make_older(timedelta(hours=23, minutes=59))

    assert post(client).content == first.content
    assert Webhook.objects.count() == 1


@pytest.mark.parametrize("key", ["", " ", "a" * 256, "a b", "ä", "a\x7f"])
def test_bad_key_is_refused(client: APIClient, key: str) -> None:
    response = post(client, key=key)

    assert response.status_code == 400
    assert "visible ASCII" in response.json()["detail"]
    assert not Webhook.objects.exists()


def test_action_that_sends_keeps_no_transaction_open(
    client: APIClient, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"webhooks/{make_webhook(timeout_seconds=1).public_id}/test"
    sent = []

    def send(*_: Any, **__: Any) -> Any:
        # Another request comes while this one is under way.
        sent.append(list(connection.savepoint_ids))
        under_way = post(client, {}, path=path)
        assert under_way.status_code == 409
        assert under_way.json()["type"].endswith(":idempotency-key-in-use")
        assert under_way["Retry-After"] == "1"
        assert "still at work" in under_way.json()["detail"]
        raise RuntimeError

    client.raise_request_exception = False
    with monkeypatch.context() as slow:
        slow.setattr("webhooks.service.test_webhook", send)
        assert post(client, {}, path=path).status_code == 500
    first, second = post(client, {}, path=path), post(client, {}, path=path)

    assert sent == [[]]
    assert first.status_code == 200
    assert second.content == first.content


def test_key_of_a_process_that_died_is_free_after_two_minutes(
    client: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    path = f"webhooks/{make_webhook(timeout_seconds=1).public_id}/test"
    answer = IdempotentAnswer.objects.create(owner_id=user.id, key="key-1", request_hash=b"?")

    assert post(client, {}, path=path).status_code == 409
    IdempotentAnswer.objects.filter(id=answer.id).update(
        created_at=timezone.now() - timedelta(minutes=2)
    )
    assert post(client, {}, path=path).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_ten_at_once_have_one_effect(user: User, make_client: MakeClient) -> None:
    client = make_client(user)
    authorization = authorization_of(client)
    answers: list[Any] = []

    def send() -> None:
        mine = APIClient()
        mine.credentials(HTTP_AUTHORIZATION=authorization)
        answers.append(post(mine))
        connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [answer.status_code for answer in answers] == [201] * 10
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer for answer in answers) == 9
    assert Webhook.objects.count() == 1


def acting_for(request: Any) -> Any:
    return request.headers.get("X-Acting-For") or request.user


def test_who_acts_for_several_users_has_keys_for_each(
    client: APIClient, other_user: User, settings: Settings
) -> None:
    settings.WEBHOOKS_OWNER_OF_REQUEST = f"{__name__}.acting_for"
    own = post(client)
    client.credentials(
        HTTP_AUTHORIZATION=authorization_of(client), HTTP_X_ACTING_FOR=str(other_user.pk)
    )

    others = post(client)

    assert "Idempotency-Replayed" not in others
    assert own.json()["id"] != others.json()["id"]
    assert Webhook.objects.filter(owner_id=other_user.pk).count() == 1
