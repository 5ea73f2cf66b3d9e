"""Event types of users, projects and billing, and which writes cause them."""

from collections.abc import Iterator

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
    wire_time,
)
from webhooks.models.tracking import Change, State, describe_changes_of

_ID = "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71"
_TIME = "2026-11-23T10:30:00.123Z"

CURRENCY = {"type": "string", "pattern": "^[A-Z]{3}$"}
_PROJECT = {"id": UUID_TEXT, "name": TEXT, "description": TEXT}
_USER = {"id": UUID_TEXT, "email": TEXT, "name": TEXT}
_SUBSCRIPTION = {
    "id": TEXT,
    "plan": TEXT,
    "status": {"enum": ["trialing", "active", "past_due", "cancelled"]},
}
_PAYMENT = {
    "id": TEXT,
    "subscriptionId": OPTIONAL_TEXT,
    "amount": {**COUNT, "description": "In minor units of the currency, such as cents."},
    "currency": CURRENCY,
}
_PROJECT_EXAMPLE = {"id": _ID, "name": "Website", "description": "The public site"}
_USER_EXAMPLE = {"id": _ID, "email": "ada@example.com", "name": "Ada Lovelace"}
_SUBSCRIPTION_EXAMPLE = {"id": "sub_8sHq2", "plan": "team", "status": "active"}
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
        schema=object_schema({**_SUBSCRIPTION, "createdAt": TIME_TEXT}),
        example={**_SUBSCRIPTION_EXAMPLE, "createdAt": _TIME},
    ),
    EventType(
        name="subscription.updated",
        description="A subscription's plan or status changed.",
        schema=object_schema({**_SUBSCRIPTION, "updatedAt": TIME_TEXT}),
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


def project_changes(project: Project, before: State | None, deleted: bool) -> Iterator[Change]:
    def change(event_type: str, data: dict[str, object]) -> Change:
        return Change(event_type, project.owner_id, data, f"project:{project.id}")

    public = {
        "id": str(project.id),
        "name": project.name,
        "description": project.description,
    }
    if deleted:
        gone = {"id": str(project.id), "name": project.name}
        yield change("project.deleted", {**gone, "deletedAt": wire_time(timezone.now())})
    elif before is None:
        yield change("project.created", {**public, "createdAt": wire_time(project.created_at)})
    elif any(
        name in before and before[name] != getattr(project, name)
        for name in ("name", "description", "archived")
    ):
        yield change(
            "project.updated",
            {**public, "archived": project.archived, "updatedAt": wire_time(project.updated_at)},
        )


def user_changes(user: User, before: State | None, deleted: bool) -> Iterator[Change]:
    def change(event_type: str, data: dict[str, object]) -> Change:
        return Change(event_type, user.id, data, f"user:{user.id}")

    public = {"id": str(user.id), "email": user.email, "name": user.name}
    now = wire_time(timezone.now())
    if deleted:
        yield change("user.deleted", {"id": str(user.id), "email": user.email, "deletedAt": now})
    elif before is None:
        yield change("user.created", {**public, "createdAt": wire_time(user.date_joined)})
    elif any(name in before and before[name] != getattr(user, name) for name in ("email", "name")):
        yield change("user.updated", {**public, "updatedAt": now})


describe_changes_of(Project, project_changes)
describe_changes_of(User, user_changes)
