"""An update of a tracked model changes the same rows as Django's own, and stores their events.

The twin is a model of the same table without tracking: both update the same rows under a
savepoint, and the tables are compared.
"""

import contextlib
import json
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from django.db import connection, models, transaction
from django.db.models import (
    Case,
    CharField,
    Count,
    Exists,
    F,
    Func,
    Max,
    OuterRef,
    Q,
    Subquery,
    Value,
    When,
)
from django.db.models.functions import Cast, Concat, Length, Random
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.models import Project, User
from tests.concurrency import in_thread, wait_for_lock
from webhooks.models import Event
from webhooks.testing import captured_events
from webhooks.tracking import statements, writes

pytestmark = pytest.mark.django_db(transaction=True)

MANY = pytest.param(2000, marks=pytest.mark.full)
NAMES = ["A", "B", "C", "D"]
TEXT = CharField()


class Twin(models.Model):  # noqa: DJ008 (never shown)
    """The table of Project as an untracked model."""

    id = models.UUIDField(primary_key=True)
    owner = models.ForeignKey(User, on_delete=models.DO_NOTHING, related_name="twins")
    name = models.CharField(max_length=200)
    description = models.TextField()
    archived = models.BooleanField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    objects: ClassVar[Any] = models.Manager()

    class Meta:
        app_label = "projects"
        managed = False
        db_table = Project._meta.db_table


RELATION: dict[Any, str] = {Project: "projects", Twin: "twins"}
"""The way back from the owner."""


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "ROWS_PER_BATCH", 3)
    monkeypatch.setattr(statements, "ROWS_PER_BATCH", 3)
    monkeypatch.setattr(statements, "MAX_BYTES_IN_MEMORY", 1)


def siblings(model: Any) -> Any:
    return model.objects.filter(owner=OuterRef("owner"))


def count_of(rows: Any) -> Any:
    counted = rows.order_by().values("owner").annotate(n=Count("pk")).values("n")
    return Cast(Subquery(counted), TEXT)


Choose = Callable[[Any, str], Any]
"""Functions from a model and a name to a condition or a value."""

CONDITIONS: list[Choose] = [
    lambda model, name: Q(name=name),
    lambda model, name: Q(name__gt=name),
    lambda model, name: Q(archived=True),
    lambda model, name: Q(name=F("description")),
    lambda model, name: Q(**{f"owner__{RELATION[model]}__name": name}),
    lambda model, name: Q(**{f"owner__{RELATION[model]}__description": F("name")}),
    lambda model, name: Exists(siblings(model).filter(name__gt=OuterRef("name"))),
    lambda model, name: Exists(siblings(model).filter(name=name, archived=False)),
    lambda model, name: Q(pk__in=model.objects.filter(description=name)),
    lambda model, name: Q(name__in=siblings(model).order_by("name").values("name")[:1]),
    lambda model, name: Q(pk=model.objects.order_by("-name", "pk").values("pk")[:1]),
]
TEXTS: list[Choose] = [
    lambda model, name: name,
    lambda model, name: F("description"),
    lambda model, name: Concat(F("name"), Value(name), output_field=TEXT),
    lambda model, name: count_of(siblings(model).filter(name=OuterRef("name"))),
    lambda model, name: Subquery(
        siblings(model).order_by("-name", "pk").values("name")[:1], output_field=TEXT
    ),
    lambda model, name: Case(
        When(Exists(siblings(model).filter(name=name)), then=Value(name)),
        default=Concat(F("description"), F("name"), output_field=TEXT),
    ),
    lambda model, name: Cast(Length("name"), TEXT),
]
FLAGS: list[Choose] = [
    lambda model, name: True,
    lambda model, name: Case(When(archived=True, then=Value(False)), default=Value(True)),
    lambda model, name: Exists(siblings(model).filter(archived=True)),
]
SHAPES: list[Callable[[Any, str], Any]] = [
    lambda rows, relation: rows,
    lambda rows, relation: rows.distinct(),
    lambda rows, relation: rows.order_by("-name"),
    lambda rows, relation: rows.select_related("owner"),
    lambda rows, relation: rows.annotate(n=Count(f"owner__{relation}")).filter(n__gt=2),
    lambda rows, relation: rows.annotate(
        last=Max(f"owner__{relation}__name", output_field=TEXT)
    ).filter(last__gt=F("name")),
]


def one_of(choices: list[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(NAMES)
    return st.tuples(st.sampled_from(choices), names).map(
        lambda chosen: lambda model: chosen[0](model, chosen[1])
    )


atoms = one_of(CONDITIONS)
conditions = st.recursive(
    atoms,
    lambda parts: st.one_of(
        parts.map(lambda part: lambda model: ~Q(part(model))),
        st.tuples(parts, parts).map(lambda two: lambda model: Q(two[0](model)) & Q(two[1](model))),
        st.tuples(parts, parts).map(lambda two: lambda model: Q(two[0](model)) | Q(two[1](model))),
    ),
    max_leaves=3,
)
values = st.fixed_dictionaries(
    {}, optional={"name": one_of(TEXTS), "description": one_of(TEXTS), "archived": one_of(FLAGS)}
).filter(bool)
tables = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from(NAMES), st.sampled_from(NAMES), st.booleans()
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


class Undo(Exception):
    pass


def outcome_of(
    model: Any, update: Callable[[Any], int], told: list[dict[str, Any]] | None = None
) -> tuple[int, dict[Any, dict[str, Any]]]:
    """Update and roll back; return the count, and the rows before the rollback."""
    last = Event.objects.aggregate(last=Max("sequence"))["last"] or 0
    with contextlib.suppress(Undo), transaction.atomic():
        count = update(model)
        table = {row["id"]: row for row in Twin.objects.values()}
        for event in Event.objects.filter(sequence__gt=last).order_by("sequence"):
            assert (event.type, told is None) == ("project.updated", False)
            told.append(json.loads(bytes(event.payload))["data"])  # type: ignore[union-attr]
        raise Undo
    return count, table


def expected(before: dict[Any, Any], after: dict[Any, Any]) -> list[dict[str, Any]]:
    public = ("name", "description", "archived")
    return [
        {"id": str(key), **{name: row[name] for name in public}}
        for key, row in sorted(after.items())
        if any(row[name] != before[key][name] for name in public)
    ]


def compare(update: Callable[[Any], int]) -> None:
    before = {row["id"]: row for row in Twin.objects.values()}
    told: list[dict[str, Any]] = []

    theirs, ours = outcome_of(Twin, update), outcome_of(Project, update, told)

    assert ours == theirs
    for data in told:
        data.pop("updatedAt")
    assert told == expected(before, ours[1])


def fill(owners: list[User], rows: list[tuple[int, str, str, bool]]) -> list[Project]:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM webhooks_event; DELETE FROM projects_project")
    return Project.objects.bulk_create(
        Project(owner=owners[owner], name=name, description=description, archived=archived)
        for owner, name, description, archived in rows
    )


@pytest.mark.parametrize("cases", [150, MANY])
def test_update_has_the_same_effect_as_on_the_untracked_twin(
    user: User, other_user: User, cases: int
) -> None:
    @settings(max_examples=cases, deadline=None, database=None)
    @given(tables, conditions, st.sampled_from(SHAPES), values)
    def check(table: Any, condition: Any, shape: Any, changes: Any) -> None:
        def update(model: Any) -> int:
            rows = shape(model.objects.filter(condition(model)), RELATION[model])
            return rows.update(**{name: value(model) for name, value in changes.items()})  # type: ignore[no-any-return]

        fill([user, other_user], table)
        compare(update)

    check()


@pytest.mark.parametrize("cases", [50, MANY])
def test_bulk_update_has_the_same_effect_as_on_the_untracked_twin(
    user: User, other_user: User, cases: int
) -> None:
    @settings(max_examples=cases, deadline=None, database=None)
    @given(tables, conditions, st.lists(one_of(TEXTS), min_size=8, max_size=8))
    def check(table: Any, condition: Any, texts: Any) -> None:
        def update(model: Any) -> int:
            rows = list(model.objects.order_by("pk"))
            for row, text in zip(rows, texts, strict=False):
                row.name = text(model)
            return model.objects.filter(condition(model)).bulk_update(rows, ["name"])  # type: ignore[no-any-return]

        fill([user, other_user], table)
        compare(update)

    check()


def test_more_rows_than_a_batch_are_chosen_by_one_of_them(user: User) -> None:
    rows = [(0, f"p{number}", "", False) for number in range(25)]
    fill([user], rows)

    with captured_events() as captured:
        assert Project.objects.filter(owner__projects__name="p0").update(name="renamed") == 25

    assert captured.types == ["project.updated"] * 25


def test_volatile_values_and_conditions_are_evaluated_once(user: User) -> None:
    fill([user], [(0, f"p{number}", "", False) for number in range(10)])
    # Two sequences: Postgres may compute a row's value before the next row's condition, or after all.
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE conditions; CREATE SEQUENCE new_values")
    try:
        rows = Project.objects.annotate(number=next_of("conditions")).filter(number__lte=7)
        with captured_events() as captured:
            assert rows.update(name=Cast(next_of("new_values"), TEXT)) == 7
        with connection.cursor() as cursor:
            cursor.execute("SELECT c.last_value, v.last_value FROM conditions c, new_values v")
            assert cursor.fetchone() == (10, 7)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP SEQUENCE conditions, new_values")

    stored = Project.objects.exclude(name__startswith="p").order_by("pk")
    assert [data["name"] for _, data in captured.types_and_data] == [row.name for row in stored]


def next_of(sequence: str) -> Cast:
    return Cast(Func(Value(sequence), function="nextval"), models.IntegerField())


def test_deletes_choose_their_rows_once(user: User) -> None:
    fill([user], [(0, f"p{number}", "", False) for number in range(50)])

    with captured_events() as captured:
        count, _ = Project.objects.annotate(dice=Random()).filter(dice__lt=0.5).delete()

    assert captured.types == ["project.deleted"] * count
    assert Project.objects.count() == 50 - count


def test_row_that_another_transaction_changes_meanwhile_is_judged_as_it_is_then(
    project: Project,
) -> None:
    def archive() -> None:
        Project.objects.filter(name="Website").update(archived=True)

    with captured_events() as captured:
        with transaction.atomic():
            project.name = "Renamed"
            project.save()
            thread = in_thread(archive)
            wait_for_lock()
        thread.join()

    assert captured.types == ["project.updated"]
    assert not Project.objects.get().archived


def test_large_update_stores_events_in_batches_and_in_order(user: User) -> None:
    fill([user], [(0, "A", "", False)] * 10)

    with captured_events() as captured:
        assert Project.objects.update(name="B") == 10

    keys = Project.objects.order_by("pk").values_list("pk", flat=True)
    assert [data["id"] for _, data in captured.types_and_data] == [str(key) for key in keys]


def test_update_of_nothing_is_no_write(project: Project) -> None:
    with captured_events() as captured:
        assert Project.objects.none().update(name="N") == 0
        assert Project.objects.filter(pk__in=[]).update(name="N") == 0
        assert Project.objects.update() == 0

    assert captured.types == []
