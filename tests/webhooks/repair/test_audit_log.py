"""The guarantees of the audit log."""

from datetime import UTC, datetime

import pytest

from projects.models import User
from webhooks.models import AuditEntry
from webhooks.repair import audit_log

pytestmark = pytest.mark.django_db


def test_an_entry_holds_actor_action_and_object(user: User) -> None:
    audit_log.record("user.change", user, actor=user, changes={"name": ["A", "B"]})

    entry = AuditEntry.objects.get()
    assert (entry.actor_id, entry.object_reference) == (user.pk, f"user:{user.pk}")
    assert entry.changes == {"name": ["A", "B"]}
    assert (entry.source_address, entry.request_id) == (None, "")


@pytest.mark.parametrize("name", ["password", "new_secret", "custom_headers", "api_key", "Token"])
def test_values_of_secret_sounding_fields_are_masked(name: str) -> None:
    audit_log.record("x", "thing:1", changes={name: ["whsec_old", "whsec_new"]})

    assert AuditEntry.objects.get().changes == {name: "•••"}


def test_values_become_json_of_bounded_length() -> None:
    changes = {
        "long": "x" * 1000,
        "nul": "a\0b",
        "time": datetime(2026, 11, 24, tzinfo=UTC),
        "odd": [object, None, 1.5, True],
        "nested": {"a": [1]},
    }

    audit_log.record("x", "thing:1", changes=changes)

    stored = AuditEntry.objects.get().changes
    assert len(stored["long"]) == audit_log.MAX_VALUE_CHARACTERS
    assert stored["nul"] == "a\ufffdb"
    assert stored["time"] == "2026-11-24T00:00:00Z"
    assert stored["odd"] == ["<class 'object'>", None, 1.5, True]
    assert stored["nested"] == {"a": [1]}


def test_history_is_of_one_object_latest_first(user: User, other_user: User) -> None:
    for action in ("one", "two"):
        audit_log.record(action, user)
    audit_log.record("other", other_user)

    assert [entry.action for entry in audit_log.history(user)] == ["two", "one"]
