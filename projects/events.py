"""Event types of users and projects, and the writes that cause them."""

from collections.abc import Iterator

from django.db.models import Model
from django.utils import timezone

from projects.models import Project, User
from webhooks.catalog import (
    TEXT,
    TIME_TEXT,
    UUID_TEXT,
    EventType,
    object_schema,
    register,
    wire_text,
    wire_time,
)
from webhooks.tracking import Change, State, Tracking, track

_ID = "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71"
_TIME = "2026-11-23T10:30:00.123Z"

_PROJECT = {"id": UUID_TEXT, "name": TEXT, "description": TEXT}
_USER = {"id": UUID_TEXT, "email": TEXT, "name": TEXT}
_PROJECT_EXAMPLE = {"id": _ID, "name": "Website", "description": "The public site"}
_USER_EXAMPLE = {"id": _ID, "email": "ada@example.com", "name": "Ada Lovelace"}
register(
    EventType(
        name="project.created",
        description="A project was created.",
        schema=object_schema({**_PROJECT, "createdAt": TIME_TEXT}),
        example={**_PROJECT_EXAMPLE, "createdAt": _TIME},
    ),
    EventType(
        name="project.updated",
        description="A project's name, description or archived flag changed.",
        schema=object_schema({**_PROJECT, "archived": {"type": "boolean"}, "updatedAt": TIME_TEXT}),
        example={**_PROJECT_EXAMPLE, "archived": False, "updatedAt": _TIME},
    ),
    EventType(
        name="project.deleted",
        description="A project was deleted.",
        schema=object_schema({"id": UUID_TEXT, "name": TEXT, "deletedAt": TIME_TEXT}),
        example={"id": _ID, "name": "Website", "deletedAt": _TIME},
    ),
    EventType(
        name="user.created",
        description="An account was created.",
        schema=object_schema({**_USER, "createdAt": TIME_TEXT}),
        example={**_USER_EXAMPLE, "createdAt": _TIME},
    ),
    EventType(
        name="user.updated",
        description="An account's e-mail address or name changed.",
        schema=object_schema({**_USER, "updatedAt": TIME_TEXT}),
        example={**_USER_EXAMPLE, "updatedAt": _TIME},
    ),
    EventType(
        name="user.deleted",
        description="An account was deleted. Only platform webhooks receive this.",
        schema=object_schema({"id": UUID_TEXT, "email": TEXT, "deletedAt": TIME_TEXT}),
        example={"id": _ID, "email": "ada@example.com", "deletedAt": _TIME},
    ),
)


def _project(project: Project) -> dict[str, object]:
    return {
        "id": str(project.id),
        "name": project.name,
        "description": wire_text(project.description),
    }


def project_created(project: Project) -> Iterator[Change]:
    data = {**_project(project), "createdAt": wire_time(project.created_at)}
    yield Change("project.created", project.owner_id, data)


def project_updated(project: Project, before: State) -> Iterator[Change]:
    if not _differs(project, before, "name", "description", "archived"):
        return
    # QuerySet.update() and update_fields do not set updated_at.
    is_stamped = _differs(project, before, "updated_at")
    data = {
        **_project(project),
        "archived": project.archived,
        "updatedAt": wire_time(project.updated_at if is_stamped else timezone.now()),
    }
    yield Change("project.updated", project.owner_id, data)


def project_deleted(project: Project) -> Iterator[Change]:
    data: dict[str, object] = {"id": str(project.id), "name": project.name}
    data["deletedAt"] = wire_time(timezone.now())
    yield Change("project.deleted", project.owner_id, data)


def _user(user: User) -> dict[str, object]:
    return {"id": str(user.id), "email": user.email, "name": user.name}


def user_created(user: User) -> Iterator[Change]:
    yield Change("user.created", user.id, {**_user(user), "createdAt": wire_time(user.date_joined)})


def user_updated(user: User, before: State) -> Iterator[Change]:
    if _differs(user, before, "email", "name"):
        data = {**_user(user), "updatedAt": wire_time(timezone.now())}
        yield Change("user.updated", user.id, data)


def user_deleted(user: User) -> Iterator[Change]:
    data: dict[str, object] = {"id": str(user.id), "email": user.email}
    yield Change("user.deleted", user.id, {**data, "deletedAt": wire_time(timezone.now())})


def _differs(row: Model, before: State, *names: str) -> bool:
    return any(getattr(row, name) != before[name] for name in names)


track(
    Project,
    Tracking(
        name="project",
        fields=("owner_id", "name", "description", "archived", "created_at", "updated_at"),
        created=project_created,
        updated=project_updated,
        deleted=project_deleted,
    ),
)
track(
    User,
    Tracking(
        name="user",
        # Webhooks of an account that is active again go on (webhooks/tracking/signals.py).
        fields=("email", "name", "date_joined", "storage_quota_bytes", "is_active"),
        created=user_created,
        updated=user_updated,
        deleted=user_deleted,
    ),
)
