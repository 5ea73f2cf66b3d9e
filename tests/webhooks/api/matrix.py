"""The access matrix: every route of the API with what each kind of caller gets from it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import connection, transaction
from django.urls import reverse
from rest_framework.test import APIClient

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session
from tests.webhooks.api.routes import Route, routes
from webhooks import service
from webhooks.models import ApiToken, Delivery, Webhook

NEW_EVENT = {
    "type": "project.deleted",
    "data": {
        "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
        "name": "Website",
        "deletedAt": "2026-11-23T10:30:00.123Z",
    },
}


@dataclass
class World:
    """What the owner has; `texts` are ids that nobody else may ever see."""

    owner: User
    ids: dict[str, str]
    bodies: dict[str, Any] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        return list(self.ids.values())


def make_world(user: User, project: Project, webhook: Webhook) -> World:
    """Give an owner one of everything."""
    session = Session.objects.create(owner=user, project=project, title="Fix the login")
    recording = Recording.objects.create(session=session, title="Screen")
    agent = Agent.objects.create(
        owner=user, name="Desktop", platform="linux", version="1", status="ONLINE"
    )
    idle = Agent.objects.create(owner=user, name="Laptop", platform="linux", version="1")
    event = service.trigger_event(NEW_EVENT["type"], user, NEW_EVENT["data"])  # type: ignore[arg-type]
    delivery = Delivery.objects.get(event=event)
    delivery.attempts.create(
        number=1, started_at=event.created_at, duration_ms=5, url=webhook.url, request_head=""
    )
    redelivery = service.redeliver(
        service.Scope(webhook_id=webhook.id), requested_by=user, rate_limit=1.0
    )
    token, _ = ApiToken.objects.issue(user, name="mine", scopes=["read"], lifetime=None)
    link = service.create_portal_link(user)
    return World(
        owner=user,
        ids={
            "webhook": webhook.public_id,
            "project": str(project.id),
            "session": str(session.id),
            "recording": str(recording.id),
            "agent": str(agent.id),
            "agent-connect": str(idle.id),
            "event": event.public_id,
            "delivery": delivery.public_id,
            "redelivery": redelivery.public_id,
            "token": token.public_id,
            "portal-link": link.public_id,
        },
    )


@dataclass(frozen=True)
class Row:
    """What the owner gets, and what others get who have every scope."""

    owner: int
    other: int = 404
    body: Callable[[World], Any] | None = None
    scope: str = "write"
    staff: int | None = None

    def status_of(self, caller: str, method: str) -> int:
        if caller in ("anonymous", "expired"):
            return 401
        if caller == "read-only" and self.scope != "read":
            return 403
        if caller == "staff" and self.staff is not None:
            return self.staff
        return self.other if caller in ("other", "staff") else self.owner


def reading(owner: int = 200, other: int = 404, **options: Any) -> Row:
    return Row(owner, other, scope="read", **options)


def body(**values: Any) -> Callable[[World], Any]:
    return lambda world: values


ROWS = {
    "agent-list.get": reading(other=200),
    "agent-list.post": Row(201, 201, body(name="Mac", platform="darwin", version="2")),
    "agent-detail.get": reading(),
    "agent-detail.patch": Row(200, body=body(name="Mac")),
    "agent-detail.delete": Row(204),
    "agent-connect.post": Row(200),
    "agent-disconnect.post": Row(200, body=body(reason="heartbeat lost")),
    "agent-status.post": Row(200, body=body(status="BUSY")),
    "delivery-list.get": reading(other=200),
    "delivery-detail.get": reading(),
    "delivery-cancel.post": Row(200),
    "delivery-redeliver.post": Row(202),
    "docs.get": reading(other=200),
    "event-list.get": reading(other=200),
    "event-rendered.get": reading(),
    "event-list.post": Row(
        201, 403, lambda world: NEW_EVENT | {"userId": str(world.owner.pk)}, scope="trigger"
    ),
    "event-batch.post": Row(
        200,
        403,
        lambda world: {"events": [NEW_EVENT | {"userId": str(world.owner.pk)}]},
        scope="trigger",
    ),
    "event-detail.get": reading(),
    "event-feed.get": reading(other=200),
    "event-type-list.get": reading(other=200),
    "event-type-detail.get": reading(other=200),
    "portal-link-list.get": reading(other=200),
    "portal-link-list.post": Row(
        201, 403, lambda world: {"userId": str(world.owner.pk)}, staff=201
    ),
    "portal-link-detail.delete": Row(204),
    "project-list.get": reading(other=200),
    "project-list.post": Row(201, 201, body(name="Shop")),
    "project-detail.get": reading(),
    "project-detail.patch": Row(200, body=body(name="Shop")),
    "project-detail.delete": Row(204),
    "queue-list.get": reading(403, 403, staff=200),
    "queue-pause.post": Row(403, 403, body(reason="Maintenance"), staff=200),
    "queue-resume.post": Row(403, 403, staff=200),
    "queue-retry-failed.post": Row(
        403, 403, lambda world: {"userId": str(world.owner.pk)}, staff=202
    ),
    "recording-list.get": reading(other=200),
    "recording-list.post": Row(
        201, 400, lambda world: {"sessionId": world.ids["session"], "title": "Again"}
    ),
    "recording-detail.get": reading(),
    "recording-complete.post": Row(
        200, body=body(url="https://cdn.example.com/1", durationSeconds=1, fileSizeBytes=1)
    ),
    "recording-fail.post": Row(200, body=body(error="Cut off")),
    "redelivery-list.get": reading(other=200),
    "redelivery-list.post": Row(202, 400, lambda world: {"deliveryIds": [world.ids["delivery"]]}),
    "redelivery-detail.get": reading(),
    "redelivery-cancel.post": Row(200),
    "schema.get": reading(other=200),
    "session-list.get": reading(other=200),
    "session-list.post": Row(
        201, 400, lambda world: {"projectId": world.ids["project"], "title": "Again"}
    ),
    "session-detail.get": reading(),
    "session-pause.post": Row(200),
    "session-resume.post": Row(409),
    "session-end.post": Row(200),
    "session-messages.get": reading(),
    "session-messages.post": Row(201, body=body(sender="Ada", content="It works.")),
    "token-list.get": reading(other=200),
    "token-list.post": Row(401, 401, body(name="more", scopes=["read"])),
    "token-current.get": reading(other=200),
    "token-detail.delete": Row(204),
    "webhook-list.get": reading(other=200),
    "webhook-list.post": Row(201, 201, body(name="Mine", url="http://127.0.0.1:9/", events=["*"])),
    "webhook-detail.get": reading(),
    "webhook-detail.patch": Row(200, body=body(name="Shop")),
    "webhook-detail.delete": Row(204),
    "webhook-deliveries.get": reading(),
    "webhook-stats.get": reading(),
    "webhook-filter-preview.post": reading(),
    "webhook-test.post": Row(200),
    "webhook-verify.post": Row(200),
    "webhook-enable.post": Row(200),
    "webhook-try-now.post": Row(204),
    "webhook-disable.post": Row(200),
    "webhook-rotate-secret.post": Row(200),
    "webhook-by-uid.put": Row(201, 201, body(name="Mine", url="http://127.0.0.1:9/", events=["*"])),
    "webhook-public-keys.get": reading(),
    "webhook-revoke-secrets.post": Row(200),
}
ROUTES = {f"{route.name}.{route.method}": route for route in routes()}


def identifier(route: Route, world: World) -> str:
    if route.name == "event-type-detail":
        return "project.created"
    if route.name == "webhook-by-uid":
        return "billing"
    name = route.name.removesuffix("-detail")
    return world.ids.get(name) or world.ids[name.split("-")[0]]


def url_of(route: Route, world: World) -> str:
    return reverse(route.name, args=[identifier(route, world)] if route.needs_id else [])


def send(
    client: APIClient, route: Route, row: Row, world: World, *, query: str = "", **options: Any
) -> Any:
    url = f"{url_of(route, world)}?{query}".rstrip("?")
    return getattr(client, route.method)(url, row.body(world) if row.body else None, **options)


def rows_of_all_tables() -> dict[str, str]:
    """Return a digest of the rows of every table of ours."""
    with connection.cursor() as cursor:
        found = {}
        for model in apps.get_models():
            if model._meta.app_label in ("webhooks", "projects", "sessions_app"):
                table = model._meta.db_table
                digest = "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {} t"
                cursor.execute(digest.format(table))
                found[table] = cursor.fetchone()[0]
        return found


class undone:
    """A block whose changes are undone at its end, so that callers do not see one another's."""

    def __enter__(self) -> None:
        self._block = transaction.atomic()
        self._block.__enter__()

    def __exit__(self, *failure: Any) -> None:
        transaction.set_rollback(True)
        self._block.__exit__(*failure)
