"""Users of a project whose model has no `is_staff`, or no permissions: nobody is staff there."""

import base64
from typing import Any

import pytest
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from tests.webhooks.api.test_door import NEW
from webhooks.doors import access, second_factor

PASSWORD = "correct horse battery"


@pytest.fixture(params=[{"is_staff", "has_perms", "has_perm"}, {"has_perms", "has_perm"}])
def plain(staff: User, other_user: User, monkeypatch: pytest.MonkeyPatch, request: Any) -> User:
    """A user who has every right, but whose model is without the attributes that say so."""
    staff.set_password(PASSWORD)
    staff.save()

    def hide(user: User, name: str) -> Any:
        if name in request.param:
            raise AttributeError(name)
        return object.__getattribute__(user, name)

    monkeypatch.setattr(User, "__getattribute__", hide)
    return staff


def test_what_staff_may_do_is_refused(
    plain: User, other_user: User, make_client: MakeClient
) -> None:
    client = make_client(plain)
    by_password = APIClient()
    credentials = base64.b64encode(f"{plain.username}:{PASSWORD}".encode()).decode()
    by_password.credentials(HTTP_AUTHORIZATION=f"Basic {credentials}")
    new_token = {"name": "a", "scopes": ["read"]}

    refused = [
        client.get("/api/v1/queue"),
        client.post("/api/v1/queue/pause", {}),
        client.post("/api/v1/portal-links", {"userId": str(other_user.pk)}),
        by_password.post("/api/v1/tokens", new_token | {"isService": True}),
    ]

    assert [answer.status_code for answer in refused] == [403] * 4
    assert by_password.post("/api/v1/tokens", new_token).status_code == 201
    assert not access.may(plain, access.PAUSE)


def test_second_factor_is_required_of_staff_only(plain: User, settings: Any) -> None:
    settings.WEBHOOKS_SECOND_FACTOR = "required"

    assert second_factor.is_missing(plain) is access.is_staff(plain)


def test_service_tokens_work_while_their_users_are_staff(
    plain: User, other_user: User, make_client: MakeClient
) -> None:
    client = make_client(plain, is_service=True)

    answer = client.post("/api/v1/events", NEW | {"userId": str(other_user.pk)})

    assert answer.status_code == (201 if access.is_staff(plain) else 403)
