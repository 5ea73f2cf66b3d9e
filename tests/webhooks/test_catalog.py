"""The declarations: complete, valid, and refused when they clash."""

import pytest

from webhooks import catalog
from webhooks.catalog import WEBHOOK_EVENTS

PRODUCT_TYPES = [
    "project.created",
    "project.updated",
    "project.deleted",
    "session.started",
    "session.ended",
    "session.message",
    "session.paused",
    "session.resumed",
    "recording.completed",
    "recording.failed",
    "agent.connected",
    "agent.disconnected",
    "agent.status_changed",
    "subscription.created",
    "subscription.updated",
    "subscription.cancelled",
    "payment.succeeded",
    "payment.failed",
    "storage.quota_warning",
    "storage.quota_exceeded",
    "user.created",
    "user.updated",
    "user.deleted",
]


def test_catalogue_holds_the_23_product_types_and_our_own() -> None:
    assert set(WEBHOOK_EVENTS) == {*PRODUCT_TYPES, "webhook.test", "webhook.disabled"}
    assert len(PRODUCT_TYPES) == 23


@pytest.mark.parametrize("name", PRODUCT_TYPES)
def test_example_fits_its_schema(name: str) -> None:
    catalog.validate_data(name, catalog.get_type(name).example)


def test_names_are_constants() -> None:
    assert WEBHOOK_EVENTS.PROJECT_CREATED == "project.created"
    assert WEBHOOK_EVENTS.AGENT_STATUS_CHANGED == "agent.status_changed"
    with pytest.raises(AttributeError, match="PROJECT_EXPLODED"):
        _ = WEBHOOK_EVENTS.PROJECT_EXPLODED


@pytest.mark.parametrize(
    ("pattern", "known"),
    [
        ("project.created", True),
        ("project.*", True),
        ("*", True),
        ("proj*", False),
        ("*.created", False),
        ("", False),
        ("PROJECT.CREATED", False),
    ],
)
def test_patterns(pattern: str, known: bool) -> None:
    assert catalog.is_known_pattern(pattern) is known
