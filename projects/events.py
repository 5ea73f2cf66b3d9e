"""Event types of users, projects and billing, and which writes cause them."""

from collections.abc import Iterator

from django.db.models import Model
from django.utils import timezone

from projects.models import Project, User
from webhooks.catalog import (
    COUNT,
    OPTIONAL_TEXT,
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

CURRENCY = {"type": "string", "pattern": "^[A-Z]{3}$"}
_PROJECT = {"id": UUID_TEXT, "name": TEXT, "description": TEXT}
_USER = {"id": UUID_TEXT, "email": TEXT, "name": TEXT}
_SUBSCRIPTION = {
    "id": TEXT,
    "plan": TEXT,
    "status": {"enum": ["trialing", "active", "past_due", "cancelled"]},
    "amount": {**COUNT, "description": "Per interval, in minor units of the currency."},
    "currency": CURRENCY,
    "interval": {"enum": ["month", "year"]},
    "currentPeriodEnd": TIME_TEXT,
}
_PRICE = ("amount", "currency", "interval", "currentPeriodEnd")
"""What a plan without a price does not have."""
_PAYMENT = {
    "id": TEXT,
    "subscriptionId": OPTIONAL_TEXT,
    "amount": {**COUNT, "description": "In minor units of the currency, such as cents."},
    "currency": CURRENCY,
}
_PROJECT_EXAMPLE = {"id": _ID, "name": "Website", "description": "The public site"}
_USER_EXAMPLE = {"id": _ID, "email": "ada@example.com", "name": "Ada Lovelace"}
_SUBSCRIPTION_EXAMPLE = {
    "id": "sub_8sHq2",
    "plan": "team",
    "status": "active",
    "amount": 2900,
    "currency": "EUR",
    "interval": "month",
    "currentPeriodEnd": "2026-12-23T10:30:00.000Z",
}
_PAYMENT_EXAMPLE = {
    "id": "pay_4Jx9t",
    "subscriptionId": "sub_8sHq2",
    "amount": 2900,
    "currency": "EUR",
}

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
    EventType(
        name="subscription.created",
        description="A subscription started.",
        schema=object_schema({**_SUBSCRIPTION, "createdAt": TIME_TEXT}, optional=_PRICE),
        example={**_SUBSCRIPTION_EXAMPLE, "createdAt": _TIME},
    ),
    EventType(
        name="subscription.updated",
        description="A subscription's plan or status changed.",
        schema=object_schema({**_SUBSCRIPTION, "updatedAt": TIME_TEXT}, optional=_PRICE),
        example={**_SUBSCRIPTION_EXAMPLE, "updatedAt": _TIME},
    ),
    EventType(
        name="subscription.cancelled",
        description="A subscription was cancelled.",
        schema=object_schema(
            {"id": TEXT, "plan": TEXT, "reason": OPTIONAL_TEXT, "cancelledAt": TIME_TEXT}
        ),
        example={"id": "sub_8sHq2", "plan": "team", "reason": None, "cancelledAt": _TIME},
    ),
    EventType(
        name="payment.succeeded",
        description="A payment was received.",
        schema=object_schema({**_PAYMENT, "paidAt": TIME_TEXT}),
        example={**_PAYMENT_EXAMPLE, "paidAt": _TIME},
    ),
    EventType(
        name="payment.failed",
        description="A payment was refused.",
        schema=object_schema({**_PAYMENT, "reason": TEXT, "failedAt": TIME_TEXT}),
        example={**_PAYMENT_EXAMPLE, "reason": "card_declined", "failedAt": _TIME},
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
    # QuerySet.update() and update_fields leave updated_at as it was.
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
        fields=("email", "name", "date_joined", "storage_quota_bytes"),
        created=user_created,
        updated=user_updated,
        deleted=user_deleted,
    ),
)
