"""Whatever is deleted while it is used: the answer is what a request gets that comes later."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from rest_framework.test import APIClient

from projects.models import Project
from sessions_app.models import Agent, Recording, Session, SessionMessage
from tests.concurrency import another_connection, in_thread
from tests.webhooks.api.matrix import ROUTES, ROWS, World, identifier, send, url_of
from tests.workers import wait_until
from webhooks import service
from webhooks.api import redeliveries
from webhooks.api.base import ApiViewSet
from webhooks.api.serializers import OwnedField
from webhooks.ids import DELIVERY_PREFIX, REDELIVERY_PREFIX, WEBHOOK_PREFIX, parse_public_id
from webhooks.models import ApiToken, AuditEntry, Delivery, PortalLink, Redelivery, Webhook
from webhooks.tracking import rows_deleting

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # The event of a row below one that is gone lacks what it would read there; both are undone.
    pytest.mark.unfit_data,
]

PREFIXES = {Webhook: WEBHOOK_PREFIX, Delivery: DELIVERY_PREFIX, Redelivery: REDELIVERY_PREFIX}


def delete(model: Any, name: str) -> Callable[[World], object]:
    def delete_it(world: World) -> None:
        prefix, text = PREFIXES.get(model), world.ids[name]
        model.objects.get(pk=parse_public_id(text, prefix) if prefix else text).delete()

    return delete_it


def purge_webhook(world: World) -> None:
    """As retention does, long after it was deleted; what belongs to it went before."""
    Delivery.objects.all().delete()
    Webhook.objects.all().delete()


def delete_webhook(world: World) -> None:
    service.delete_webhook(Webhook.objects.get())


def delete_project(world: World) -> None:
    Project.objects.get(id=world.ids["project"]).delete()


DELETIONS: dict[str, dict[str, Callable[[World], object]]] = {
    "agent": {"itself": lambda world: Agent.objects.all().delete()},
    "delivery": {"itself": delete(Delivery, "delivery"), "webhook": delete_webhook},
    "portal": {"itself": lambda world: PortalLink.objects.all().delete()},
    "project": {"itself": delete_project},
    "recording": {
        "itself": delete(Recording, "recording"),
        "session": delete(Session, "session"),
        "project": delete_project,
    },
    "redelivery": {"itself": delete(Redelivery, "redelivery")},
    "session": {"itself": delete(Session, "session"), "project": delete_project},
    "token": {"itself": lambda world: ApiToken.objects.filter(name="mine").delete()},
    "webhook": {"itself": delete_webhook, "itself for good": purge_webhook},
}
"""By resource, what can take an object from under whoever uses it."""

CHANGES = sorted(
    key for key, route in ROUTES.items() if route.needs_id and route.method not in ("get", "put")
)
"""A PUT makes what is not there."""
USES = [(key, what) for key in CHANGES for what in DELETIONS[key.split("-")[0]]]

EXCEPTIONS = {
    # A delivery stays when its webhook goes.
    ("delivery-cancel.post", "webhook"): 200,
    # It cannot be sent again, though.
    ("delivery-redeliver.post", "webhook"): 400,
    # The result says that the webhook was deleted.
    ("webhook-verify.post", "itself"): 200,
}


def elsewhere(action: Callable[[], object]) -> None:
    """Do something in another transaction, which commits before this returns."""
    thread = in_thread(action)
    thread.join(20)
    assert not thread.is_alive()


def after_first(place: Any, name: str, action: Callable[[], object], patch: Any) -> list[str]:
    """Call the action once a method has returned for the first time; the list says whether."""
    original = getattr(place, name)
    calls: list[str] = []

    def hooked(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if not calls:
            calls.append(name)
            elsewhere(action)
        return result

    patch.setattr(place, name, hooked)
    return calls


@pytest.mark.parametrize(("key", "what"), USES)
def test_object_deleted_after_it_was_looked_up_is_not_found(
    key: str, what: str, world: World, client: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = DELETIONS[key.split("-")[0]][what]
    calls = after_first(ApiViewSet, "get_object", lambda: action(world), monkeypatch)

    response = send(client, ROUTES[key], ROWS[key], world)

    assert calls
    expected = {204, 404} if ROUTES[key].method == "delete" else {EXCEPTIONS.get((key, what), 404)}
    assert response.status_code in expected, response.content
    if ROUTES[key].method == "delete":
        # Who was faster has written it.
        assert not AuditEntry.objects.exists()


PARENTS: list[tuple[str, Any, str, str, str]] = [
    ("session-list.post", OwnedField, "to_internal_value", "project", "itself"),
    ("recording-list.post", OwnedField, "to_internal_value", "session", "itself"),
    ("recording-list.post", OwnedField, "to_internal_value", "session", "project"),
    ("redelivery-list.post", redeliveries.RedeliveryViewSet, "_check_ids", "delivery", "itself"),
    ("redelivery-list.post", redeliveries.RedeliveryViewSet, "_check_ids", "delivery", "webhook"),
]


@pytest.mark.parametrize(("key", "place", "method", "resource", "what"), PARENTS)
def test_object_is_not_made_below_one_that_is_deleted_meanwhile(
    key: str,
    place: Any,
    method: str,
    resource: str,
    what: str,
    world: World,
    client: APIClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    action = DELETIONS[resource][what]
    calls = after_first(place, method, lambda: action(world), monkeypatch)

    response = send(client, ROUTES[key], ROWS[key], world)

    assert calls
    # A redelivery of what is gone finds nothing to send.
    expected = 202 if place is redeliveries.RedeliveryViewSet else 400
    assert response.status_code == expected, response.content


BESIDE_A_DELETE = {
    "session-messages.post": 404,
    "session-pause.post": 404,
    "session-end.post": 404,
    "recording-list.post": 400,
    "recording-complete.post": 404,
    "session-list.post": 400,
    "project-detail.patch": 404,
}


@pytest.fixture
def in_the_middle_of_a_delete() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Return a function that has something begun when a project's messages are deleted and its
    sessions are not.
    """
    threads: list[threading.Thread] = []
    receivers: list[Any] = []

    def begin(action: Callable[[], object]) -> None:
        def act(**_: Any) -> None:
            if not threads:
                threads.append(in_thread(action))
                wait_until(lambda: not threads[0].is_alive() or somebody_waits())

        receivers.append(act)
        rows_deleting.connect(act, sender=Recording)

    yield begin
    for act in receivers:
        rows_deleting.disconnect(act, sender=Recording)
    for thread in threads:
        thread.join(20)


def somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


@pytest.mark.parametrize("key", sorted(BESIDE_A_DELETE))
def test_delete_succeeds_beside_changes_below_it(
    key: str,
    world: World,
    client: APIClient,
    make_client: Any,
    in_the_middle_of_a_delete: Callable[[Callable[[], object]], None],
) -> None:
    statuses: list[int] = []
    other = make_client(world.owner)

    def use() -> None:
        statuses.append(send(other, ROUTES[key], ROWS[key], world).status_code)

    in_the_middle_of_a_delete(use)

    response = client.delete(f"/api/v1/projects/{world.ids['project']}")

    assert response.status_code == 204, response.content
    wait_until(lambda: bool(statuses))
    assert statuses == [BESIDE_A_DELETE[key]]
    assert not SessionMessage.objects.exists()
    assert not Session.objects.exists()


def test_every_change_of_an_object_is_raced(world: World) -> None:
    assert {key.split("-")[0] for key in CHANGES} == DELETIONS.keys()
    assert all(identifier(ROUTES[key], world) in url_of(ROUTES[key], world) for key in CHANGES)


def test_locked_token_delays_no_request(client: APIClient) -> None:
    """All threads of a process may be behind the one that notes the use of a token."""
    codes: list[int] = []
    with another_connection() as other:
        other.execute("SELECT FROM webhooks_apitoken FOR UPDATE")
        thread = in_thread(
            lambda: codes.extend(client.get("/api/v1/event-types").status_code for _ in range(2))
        )
        thread.join(10)
        other.rollback()
        thread.join()
        was_noted = ApiToken.objects.filter(last_used_at__isnull=False).exists()

    assert codes == [200, 200]
    assert not was_noted
    client.get("/api/v1/event-types")
    assert ApiToken.objects.get().last_used_at is not None
