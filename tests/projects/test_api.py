"""`/projects`: changes by the API cause the usual events."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from projects.models import Project, User
from webhooks.models import ApiToken
from webhooks.testing import captured_events


@pytest.fixture
def client(user: User) -> APIClient:
    _, token = ApiToken.objects.issue(user, name="a", scopes=["read", "write"], lifetime=None)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


def test_life_of_a_project(client: APIClient) -> None:
    with captured_events() as captured:
        created = client.post("/api/v1/projects", {"name": "Website"})
    assert created.status_code == 201
    assert created.json()["description"] == ""
    assert captured.types == ["project.created"]
    path = f"/api/v1/projects/{created.json()['id']}"

    with captured_events() as captured:
        changed = client.patch(path, {"archived": True})
    assert changed.json()["archived"] is True
    assert captured.types == ["project.updated"]

    with captured_events() as captured:
        deleted = client.delete(path)
    assert deleted.status_code == 204
    assert captured.data_of("project.deleted")[0]["id"] == created.json()["id"]


@pytest.mark.parametrize("field", ["id", "owner", "ownerId", "createdAt", "updated_at"])
def test_read_only_fields_are_refused(
    client: APIClient, project: Project, other_user: User, field: str
) -> None:
    value = str(other_user.id)

    for response in (
        client.post("/api/v1/projects", {"name": "x", field: value}),
        client.patch(f"/api/v1/projects/{project.id}", {field: value}),
    ):
        assert response.status_code == 400
        assert [one["pointer"] for one in response.json()["errors"]] == [f"/{field}"]
    assert Project.objects.get().owner_id == project.owner_id


@pytest.mark.parametrize("body", [{"name": "x" * 201}, {"name": None}, {"archived": "perhaps"}])
def test_wrong_value_is_refused(client: APIClient, project: Project, body: dict[str, Any]) -> None:
    assert client.patch(f"/api/v1/projects/{project.id}", body).status_code == 400
