"""What belongs to an owner moves with the slot, whichever model it is in, and nothing of it happens twice."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps
from django.db.models import Model
from django.utils import timezone

from cells import belongings
from cells.copying import MoveError
from cells.moving import Move
from projects.models import User
from tests.cells.test_moving import SLOT, STEPS, databases, faults, make_webhook, move
from tests.cells.world import World
from tests.webhooks.figures.test_rollups import NOW, START, roll_all
from tests.webhooks.history import finish, make_older, trigger
from webhooks import service
from webhooks.figures import history
from webhooks.figures.history import Selection
from webhooks.ids import new_id
from webhooks.models import (
    ApiToken,
    Delivery,
    HourFigures,
    IdempotentAnswer,
    InboxRequest,
    Redelivery,
    Webhook,
)
from webhooks.models.operations import owner_of_answers
from webhooks.repair import redelivery, redelivery_batches
from webhooks.repair.redelivery_scope import Scope
from webhooks.workbench.inbox import open_inbox

NO_LINKS = {"first_id", "end_id", "request_id", "transaction_id", "signed_for_id"}
"""Columns that end like the name of another row, and name none, or one beside the owner's."""
OF_THE_PRODUCT = {
    "projects.Project",
    "sessions_app.Agent",
    "sessions_app.Recording",
    "sessions_app.Session",
    "sessions_app.SessionMessage",
    "sessions_app.StorageLevel",
}
"""Rows that cause events: they are in the producer's database."""
OF_THE_CELL = {
    "admin.LogEntry": "It tells what people did in the admin of this cell.",
    "otp_static.StaticDevice": "Recovery codes for the admin of this cell.",
    "otp_static.StaticToken": "Recovery codes for the admin of this cell.",
    "otp_totp.TOTPDevice": "Staff set their second factor up in the admin of each cell.",
    "projects.User_groups": "Rights in the admin of this cell.",
    "projects.User_user_permissions": "Rights in the admin of this cell.",
}


def test_every_model_moves_or_stays_for_a_reason() -> None:
    models = list(apps.get_app_config("webhooks").get_models())
    moving = belongings.moving()

    assert {model.__name__ for model in models if model not in moving} == set(belongings.STAYS)
    for model in models:
        linked = {column for column, _ in belongings.links_of(model)}
        names = {str(one.column) for one in model._meta.concrete_fields}
        assert {name for name in names if name.endswith("_id")} <= linked | NO_LINKS, model
    others = {
        model._meta.label
        for model in apps.get_models(include_auto_created=True)
        if model not in models
        and belongings.belongs(model)
        and not model.__module__.startswith("tests.")
    }
    assert others == OF_THE_PRODUCT | set(OF_THE_CELL)


def end_again() -> None:
    """Let all that wait have failed, without another attempt."""
    Delivery.objects.filter(finished_at=None).update(
        status="FAILED", finished_at=timezone.now(), next_attempt_at=None
    )


def fill(owner: Any) -> None:
    """Let an owner have a row of everything, in the database in use."""
    user = User.objects.get(pk=owner)
    webhook = Webhook.objects.get(owner_id=owner)
    trigger(user, 3)
    finish()
    make_older(timedelta(hours=5))
    roll_all()
    # One is sent again, and once more.
    one = Delivery.objects.order_by("id")[0]
    redelivery.redeliver_one(one, requested_by=user)
    end_again()
    redelivery.redeliver_one(one, requested_by=user)
    service.create_portal_link(user)
    ApiToken.objects.issue(user, name="t", scopes=["read"], lifetime=None)
    for is_service in (False, True):
        whose = owner_of_answers(user.pk, is_service=is_service)
        IdempotentAnswer.objects.create(owner_id=whose, key="k", request_hash=b"1" * 32)
    inbox = open_inbox(owner)
    InboxRequest.objects.create(
        inbox=inbox, head="a: b", body=b"{}", size=2, signed_for_id=webhook.pk
    )


def rows_of(model: type[Model], ids: set[str]) -> list[str]:
    """Return all rows of a table, without what names something of one database."""
    left = {"epoch", "order_key", "transaction_id", "object_sequence"} | ids
    return sorted(
        str({name: value for name, value in row.items() if name not in left})
        for row in model._base_manager.values()
    )


def contents(world: World, cell: str) -> dict[str, list[str]]:
    renumbered = {"Inbox": {"id"}, "InboxRequest": {"inbox_id"}, "ReopenedHour": {"id"}}
    with world.inside(cell):
        return {
            model.__name__: rows_of(model, renumbered.get(model.__name__, set()))
            for model in belongings.moving()
        }


def test_a_row_of_everything_moves(world: World) -> None:
    ada, bob = world.add_owner("ada", slot=SLOT), world.add_owner("bob", slot=200)
    make_webhook(world, "a", ada)
    make_webhook(world, "b", bob)
    for cell, owner in (("a", ada), ("b", bob)):
        with world.inside(cell):
            fill(owner)
    before, others = contents(world, "a"), contents(world, "b")
    assert all(before.values()), [name for name, rows in before.items() if not rows]

    move(world, "b")

    moved = contents(world, "b")
    for name, rows in before.items():
        assert sorted(rows + others[name]) == moved[name], name
    assert not any(contents(world, "a").values())
    move(world, "a")
    assert contents(world, "a") == before
    assert contents(world, "b") == others
    assert faults(world, "a") == faults(world, "b") == []


# Users whom an operator changes.


@pytest.mark.parametrize("step", STEPS)
def test_who_is_deactivated_during_a_move_stays_so(world: World, step: str) -> None:
    world.add_owner("ada", slot=SLOT)
    world.add_owner("bob", slot=SLOT)

    def deactivate(line: str) -> None:
        if step in line:
            with world.server.connect("cells_a") as connection:
                change = "UPDATE projects_user SET is_active = false, name = 'Ada' WHERE username = 'ada'"
                connection.execute(change)

    with world.inside("producer"):
        Move(world.log, SLOT, databases(world), deactivate).run("b")

    of_b = world.rows("b", "SELECT username, name, is_active FROM projects_user ORDER BY 1")
    assert of_b == [("ada", "Ada", False), ("bob", "bob", True)]
    with world.server.connect("cells_b") as connection:
        connection.execute("UPDATE projects_user SET is_active = true WHERE username = 'ada'")
        connection.execute("UPDATE projects_user SET is_active = false WHERE username = 'bob'")
    move(world, "a")
    of_a = world.rows("a", "SELECT username, is_active FROM projects_user ORDER BY 1")
    assert of_a == [("ada", True), ("bob", False)]


# Redeliveries.

COUNT = 40


def failed(world: World, owners: list[UUID], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each owner have failed deliveries in cell a, and batches be small."""
    monkeypatch.setattr(redelivery_batches, "BATCH", 5)
    for owner in owners:
        make_webhook(world, "a", owner)
        with world.inside("a"):
            trigger(User.objects.get(pk=owner), COUNT)
            finish("FAILED")


def rounds(world: World, cell: str) -> list[tuple[Any, ...]]:
    text = "SELECT status, round, count(*) FROM webhooks_delivery GROUP BY 1, 2"
    return world.rows(cell, text)


def scopes(world: World, owner: UUID) -> dict[str, Scope]:
    with world.inside("a"):
        return {
            "owner": Scope(owner_id=owner),
            "webhook": Scope(webhook_id=Webhook.objects.get(owner_id=owner).pk),
            "deliveries": Scope(
                delivery_ids=tuple(
                    Delivery.objects.filter(owner_id=owner).values_list("id", flat=True)
                )
            ),
        }


@pytest.mark.parametrize("kind", ["owner", "webhook", "deliveries"])
def test_a_running_redelivery_goes_on_in_the_new_cell(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    ada = world.add_owner("ada", slot=SLOT)
    failed(world, [ada], monkeypatch)
    with world.inside("a"):
        staff = User(id=new_id(), username="staff", email="s@example.com")
        User.objects.bulk_create([staff])
    scope = scopes(world, ada)[kind]
    with world.inside("a"):
        asked = redelivery.redeliver(scope, requested_by=staff)
        redelivery_batches.advance(asked.id)
        # These are sent meanwhile, fail again, and must not be sent once more.
        end_again()

    def go_on(line: str) -> None:
        """As the workers of the old cell do."""
        with world.inside("a"):
            redelivery_batches.advance(asked.id)

    with world.inside("producer"):
        Move(world.log, SLOT, databases(world), go_on).run("b")

    with world.inside("b"):
        while redelivery_batches.advance(asked.id):
            pass
        found = Redelivery.objects.get()
        assert (found.id, found.status, found.queued_count) == (asked.id, "done", COUNT)
        assert found.requested_by is None
        assert not Delivery.objects.exclude(redelivery=found).exists()
    assert sorted(rounds(world, "b")) == [("FAILED", 2, 5), ("PENDING", 2, COUNT - 5)]
    assert world.rows("a", "SELECT count(*) FROM webhooks_redelivery") == [(0,)]


def test_a_running_redelivery_for_others_too_comes_to_its_end_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = world.add_owner("ada", slot=SLOT), world.add_owner("bob", slot=6)
    failed(world, [ada, bob], monkeypatch)
    with world.inside("a"):
        ids = tuple(Delivery.objects.values_list("id", flat=True))
        asked = redelivery.redeliver(Scope(delivery_ids=ids))
    monkeypatch.setattr("cells.moving.DRAIN_SECONDS", 1)
    with pytest.raises(MoveError, match="several owners is still running"):
        move(world, "b")
    with world.inside("a"):
        while redelivery_batches.advance(asked.id):
            pass

    move(world, "b")

    assert rounds(world, "a") == rounds(world, "b") == [("PENDING", 2, COUNT)]
    assert world.rows("a", "SELECT status, queued_count FROM webhooks_redelivery") == [
        ("done", 2 * COUNT)
    ]
    assert world.rows("b", "SELECT count(*) FROM webhooks_redelivery") == [(0,)]


# Figures.


def grow(owner: UUID, oldest_hours: int) -> None:
    """Let an owner have deliveries of many hours, in the database in use."""
    user = User.objects.get(pk=owner)
    for hours in range(oldest_hours, 0, -3):
        since = timezone.now()
        trigger(user, 2)
        finish("SUCCESS" if hours % 2 else "FAILED")
        make_older(timedelta(hours=hours), since)


def figures_of(webhook: Webhook) -> list[Any]:
    """Return all figures of a webhook and its owner, by hour and by day, in the database in use."""
    found: list[Any] = []
    for until in (NOW, START + timedelta(hours=50, minutes=40)):
        for whose in ({"owner_id": webhook.owner_id}, {"webhook_ids": (webhook.pk,)}):
            selection = Selection(START, until, **whose)
            found += [history.totals(selection), history.by_type(selection)]
            found += [history.failures(selection), history.series(selection)]
            found += [history.series(selection, "day")]
    return found


@pytest.mark.parametrize(("of_ada", "of_bob"), [(75, 40), (40, 75)])
def test_figures_move_and_count_the_same(world: World, of_ada: int, of_bob: int) -> None:
    ada, bob = world.add_owner("ada", slot=SLOT), world.add_owner("bob", slot=200)
    webhooks = {}
    for cell, owner, hours in (("a", ada, of_ada), ("b", bob, of_bob)):
        webhooks[cell] = make_webhook(world, cell, owner)
        with world.inside(cell):
            grow(owner, hours)
    for cell in ("a", "b"):
        with world.inside(cell):
            roll_all()
    with world.inside("a"):
        before = figures_of(webhooks["a"])
        kept = HourFigures.objects.filter(owner_id=ada).count()
    with world.inside("b"):
        others = figures_of(webhooks["b"])

    move(world, "b")

    with world.inside("b"):
        assert kept
        assert HourFigures.objects.filter(owner_id=ada).count() >= kept
        for _ in range(2):
            assert figures_of(webhooks["a"]) == before
            assert figures_of(webhooks["b"]) == others
            roll_all()
    assert faults(world, "a") == faults(world, "b") == []
