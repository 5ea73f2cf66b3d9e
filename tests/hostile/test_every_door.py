"""The table of who may do what holds at every door, for every role (webhooks/doors/access.py)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.conf import settings
from django.contrib.admin import site
from django.test import Client

from projects.models import User
from tests.webhooks.admin.conftest import delivery, event, samples, webhook  # noqa: F401
from tests.webhooks.api.conftest import MakeClient, grant
from tests.webhooks.api.matrix import NEW_EVENT, World, undone
from webhooks.admin.base import OperatorAdmin
from webhooks.doors import access
from webhooks.models import ApiToken, Webhook

EVERY_PERMISSION = sorted({one for deed in access.DEEDS for one in deed.permissions})
API_BODIES: dict[str, Callable[[World], dict[str, Any]]] = {
    "POST /queue/pause": lambda _: {"reason": "x"},
    "POST /queue/retry-failed": lambda world: {"userId": str(world.owner.pk)},
    "POST /portal-links with userId": lambda world: {"userId": str(world.owner.pk)},
}
API_DOORS = [
    (deed, door) for deed in access.DEEDS for door in deed.api if door.split()[1] != "/tokens"
]
ADMIN_DOORS = [(deed, door) for deed in access.DEEDS for door in deed.admin if "," not in door]


class Role(NamedTuple):
    name: str
    is_staff: bool
    permissions: tuple[str, ...]
    may: bool


def roles(deed: access.Deed) -> Iterator[Role]:
    yield Role("all that is needed", True, deed.permissions, True)
    yield Role("staff without permissions", True, (), False)
    yield Role("a customer with the permissions", False, deed.permissions, False)
    for missing in deed.permissions:
        others = tuple(one for one in EVERY_PERMISSION if one != missing)
        yield Role(f"everything but {missing}", True, others, False)


@pytest.fixture
def somebody(db: None) -> User:
    user: User = User.objects.create_user("eve", "eve@example.com", "a password 1")
    return user


def dress(user: User, role: Role) -> None:
    user.is_staff = role.is_staff
    user.save()
    grant(user, *role.permissions)


@pytest.mark.parametrize(("deed", "door"), API_DOORS, ids=[door for _, door in API_DOORS])
def test_api_asks_for_the_permissions(
    deed: access.Deed, door: str, somebody: User, world: World, make_client: MakeClient
) -> None:
    client = make_client(somebody, is_service=True)
    method, path = door.split()[:2]
    body = API_BODIES[door](world) if door in API_BODIES else None
    for role in roles(deed):
        dress(somebody, role)
        with undone():
            answer = getattr(client, method.lower())(f"/api/v1{path}", body)
        assert (answer.status_code < 300) is role.may, (role, answer.content)
        assert role.may or answer.status_code == 403, role


def test_service_token_serves_as_long_as_its_user_is_staff(
    somebody: User, world: World, make_client: MakeClient
) -> None:
    client = make_client(somebody, is_service=True)
    body = NEW_EVENT | {"userId": str(world.owner.pk)}
    for is_staff, status in ((True, 201), (False, 403), (True, 201)):
        somebody.is_staff = is_staff
        somebody.save()
        with undone():
            assert client.post("/api/v1/events", body).status_code == status


def test_service_tokens_are_made_with_the_permission_only(somebody: User) -> None:
    client = Client()
    for role in roles(access.TRIGGER_FOR_OTHERS):
        dress(somebody, role)
        answer = client.post(
            "/api/v1/tokens",
            {"name": "x", "scopes": ["trigger"], "isService": True},
            content_type="application/json",
            headers={"Authorization": "Basic ZXZlOmEgcGFzc3dvcmQgMQ=="},
        )
        assert answer.status_code == (201 if role.may else 403), role
    assert ApiToken.objects.filter(is_service=True).count() == 1


@pytest.mark.parametrize(("deed", "door"), ADMIN_DOORS, ids=[door for _, door in ADMIN_DOORS])
def test_admin_asks_for_the_permissions(
    deed: access.Deed,
    door: str,
    somebody: User,
    samples: dict[str, Any],  # noqa: F811
) -> None:
    ids = {name.split("_")[-1]: one.pk for name, one in samples.items()}
    model, operation = door.split("_")
    url = f"/admin/webhooks/{model}/{ids[model]}/{operation}/"
    if operation in ("new", "pause", "resume"):
        url = f"/admin/webhooks/{model}/{operation}/"
    client = Client()
    for role in roles(deed):
        dress(somebody, role)
        client.force_login(somebody)
        refused = 403 if role.is_staff else 302
        assert client.get(url).status_code == (200 if role.may else refused), role
        if not role.may:
            assert client.post(url, {"reason": "x"}).status_code == refused, role


def test_platform_webhook_needs_the_right_to_read_payloads(somebody: User) -> None:
    client = Client()
    body = {"is_platform": "on", "name": "all", "url": "http://127.0.0.1:9/", "events": "*"}
    for role in roles(access.ADD_PLATFORM_WEBHOOK):
        dress(somebody, role)
        client.force_login(somebody)
        before = Webhook.objects.count()
        client.post("/admin/webhooks/webhook/new/", body)
        assert (Webhook.objects.count() > before) is role.may, role


def test_url_of_a_platform_webhook_is_not_changed_without_it(
    somebody: User, make_webhook: Callable[..., Webhook]
) -> None:
    platform = make_webhook(owner=None, is_platform=True, name="all")
    client = Client()
    for role in roles(access.CHANGE_SETTINGS):
        dress(somebody, role)
        client.force_login(somebody)
        form = {"name": role.name, "url": "http://127.0.0.1:9/eve", "events": "*",
                "timeout_seconds": 5, "max_retries": 3, "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000, "batch_milliseconds": 0, "retry_delay_seconds": 5}  # fmt: skip
        client.post(f"/admin/webhooks/webhook/{platform.pk}/settings/", form)
        platform.refresh_from_db()
        assert (platform.name == role.name) is role.may, role
        Webhook.objects.update(name="all")


def test_table_names_every_operation_once() -> None:
    doors = [door for deed in access.DEEDS for door in deed.admin if "," not in door]
    operations = {
        f"{model._meta.model_name}_{one.name}": one
        for model, found in site._registry.items()
        if isinstance(found, OperatorAdmin)
        for one in found.operations
    }
    assert sorted(doors) == sorted(operations)
    for deed in access.DEEDS:
        assert all(operations[door].deed == deed for door in deed.admin if "," not in door)


def test_table_stands_in_the_documentation() -> None:
    page = (Path(settings.BASE_DIR) / "docs" / "security.md").read_text()
    assert "\n".join(access.table()) in page
