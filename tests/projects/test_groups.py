"""The groups of staff that `migrate` creates."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission

from projects.groups import GROUPS, create_groups
from projects.models import User
from webhooks.doors import access

pytestmark = pytest.mark.django_db


def member_of(name: str) -> User:
    user: User = User.objects.create(username=name, email=f"{name}@example.com", is_staff=True)
    user.groups.add(Group.objects.get(name=name))
    return user


def permissions_of(name: str) -> set[str]:
    found = Permission.objects.filter(group__name=name).select_related("content_type")
    return {f"{one.content_type.app_label}.{one.codename}" for one in found}


@pytest.mark.parametrize("name", GROUPS)
def test_a_new_database_has_each_group_with_all_its_permissions(name: str) -> None:
    wanted = {f"{app}.{codename}" for app, names in GROUPS[name].items() for codename in names}

    assert permissions_of(name) == wanted


def test_each_group_may_do_what_its_name_says() -> None:
    members = {name: member_of(name) for name in GROUPS}
    may = {
        name: {deed.what for deed in access.DEEDS if access.may(member, deed)}
        for name, member in members.items()
    }

    assert may["Support"] == {access.VIEW_QUEUE.what}
    assert may["Support"] < may["Operator"] < may["Administrator"]
    assert {access.PAUSE.what, access.REDELIVER.what} <= may["Operator"]
    assert access.TRIGGER_FOR_OTHERS.what not in may["Operator"]


def test_later_migrations_leave_the_groups_as_they_are() -> None:
    Group.objects.get(name="Support").permissions.clear()
    Group.objects.get(name="Operator").delete()

    create_groups()

    assert not permissions_of("Support")
    assert permissions_of("Operator")


def test_groups_are_made_from_the_database_that_was_migrated_not_from_a_replica(
    settings: Any,
) -> None:
    settings.DATABASE_ROUTERS = [ReplicaRouter()]
    Group.objects.using("default").get(name="Operator").delete()

    create_groups()

    assert Group.objects.using("default").filter(name="Operator").exists()


class ReplicaRouter:
    """Reads from a database that does not exist."""

    def db_for_read(self, *_: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, *_: Any, **hints: Any) -> str:
        return "default"
