"""Models of other apps: which can be adopted, and through which managers their writes are seen.

What their writes cause in a project of somebody else's: tests/host_project.
"""

from typing import Any

import pytest
from django.contrib.auth.models import GroupManager
from django.db import models
from django.db.migrations.state import ModelState
from django.test.utils import isolate_apps

from tests.webhooks.tracking.own_models import declare, make_model, tables_of
from webhooks.testing import captured_events
from webhooks.tracking import TrackedModel, TrackedQuerySet, adopt


@isolate_apps("projects")
def test_an_adopted_model_writes_like_a_tracked_one() -> None:
    class NamedQuerySet(models.QuerySet["Team"]):
        def named(self) -> "NamedQuerySet":
            return self.filter(name__gt="")

    class Team(models.Model):
        name = models.CharField(max_length=10)
        objects = NamedQuerySet.as_manager()

        class Meta:
            app_label = "projects"

        def __str__(self) -> str:
            return self.name

    adopt(Team)

    assert issubclass(Team, TrackedModel)
    assert isinstance(Team.objects.named(), TrackedQuerySet)
    assert isinstance(Team._base_manager.get_queryset(), TrackedQuerySet)
    adopt(Team)  # again, it does nothing
    assert Team.__bases__ == (TrackedModel,)


@isolate_apps("projects")
def test_a_model_with_another_base_is_refused() -> None:
    class Base(models.Model):
        class Meta:
            app_label = "projects"
            abstract = True

    class Team(Base):
        class Meta:
            app_label = "projects"

        def __str__(self) -> str:
            return "team"

    with pytest.raises(TypeError, match="derives from more than"):
        adopt(Team)


def write_in_every_way(manager: Any) -> None:
    """Create three rows of names a to c, rename them and delete two."""
    row = manager.create(name="a")
    model = type(row)
    manager.bulk_create([model(name=name) for name in "bc"])
    row.name = "d"
    row.save()
    manager.filter(name__in="bc").update(name="e")
    row.delete()
    manager.filter(name="e").delete()


IN_EVERY_WAY = [
    *["crew.created"] * 3,
    *["crew.updated"] * 3,
    *["crew.deleted"] * 3,
]


@pytest.mark.usefixtures("own_registries")
@pytest.mark.django_db(transaction=True)
@isolate_apps("projects")
def test_writes_are_seen_after_other_models_are_made_and_through_proxies() -> None:
    crew = make_model("Crew", models.Model)
    early = proxy_of(crew, "Early", objects=models.Manager(), named=models.Manager())
    kept = crew.objects
    declare(crew)
    late = proxy_of(crew, "Late")
    crew._meta.apps.clear_cache()
    with tables_of(crew):
        for manager in (crew.objects, kept, early.objects, early.named, late.objects):
            with captured_events() as captured:
                write_in_every_way(manager)

            assert captured.types == IN_EVERY_WAY, manager


def proxy_of(model: Any, name: str, **managers: Any) -> Any:
    meta = type("Meta", (), {"app_label": "projects", "proxy": True})
    return type(name, (model,), {"Meta": meta, "__module__": "projects.models"} | managers)


@pytest.mark.parametrize("is_used_before", [False, True])
@pytest.mark.usefixtures("own_registries")
@pytest.mark.django_db(transaction=True)
@isolate_apps("projects")
def test_writes_through_related_managers_are_seen(is_used_before: bool) -> None:
    club = make_model("Club", models.Model)
    key = models.ForeignKey(club, models.CASCADE, null=True, related_name="crews")
    crew = make_model("Crew", models.Model, club=key)
    team = make_model("Team", models.Model, crews=models.ManyToManyField(crew))
    if is_used_before:
        assert club(pk=1).crews
        assert team(pk=1).crews
    declare(club, crew)
    with tables_of(club, crew, team):
        home, side = club.objects.create(name="c"), team.objects.create(name="t")
        for related in (home.crews, side.crews):
            with captured_events() as captured:
                row = related.create(name="a")
                related.update(name="b")
                related.all().update(name="c")
                related.filter(name="c").delete()

            assert captured.types == ["crew.created", *["crew.updated"] * 2, "crew.deleted"]
        with captured_events() as captured:
            home.crews.bulk_create([crew(name="x", club=home)])
            row = home.crews.get()
            home.crews.clear()
            home.crews.add(row)

        assert captured.types == ["crew.created"]


class Living(models.Manager[Any]):
    """A manager that hides rows."""

    use_in_migrations = True

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().exclude(name="gone")


@pytest.mark.parametrize(
    "managers",
    [
        {},
        {"objects": GroupManager()},
        {"objects": Living()},
        {"people": models.Manager()},
        {"people": models.Manager(), "objects": Living()},
        {"people": TrackedQuerySet.as_manager(), "objects": models.Manager()},
    ],
)
@isolate_apps("projects")
def test_migrations_do_not_notice_an_adoption(managers: dict[str, Any]) -> None:
    crew = make_model("Crew", models.Model, **managers)
    before = ModelState.from_model(crew)

    adopt(crew)
    crew._meta.apps.clear_cache()

    after = ModelState.from_model(crew)
    assert before == after
    assert [m.deconstruct() for _, m in before.managers if type(m) is not models.Manager] == [
        m.deconstruct() for _, m in after.managers if type(m) is not models.Manager
    ]


@pytest.mark.usefixtures("own_registries")
@pytest.mark.django_db(transaction=True)
@isolate_apps("projects")
def test_hidden_rows_of_an_adopted_model_are_written_and_deleted_with_events() -> None:
    crew = make_model("Crew", models.Model, objects=Living())
    declare(crew)
    with tables_of(crew):
        row = crew.objects.create(name="gone")

        with captured_events() as captured:
            row.save()
            row.name = "here"
            row.save()
            row.name = "gone"
            row.save()
            row.refresh_from_db()
            row.delete()

        assert captured.types == ["crew.updated", "crew.updated", "crew.deleted"]
        assert not crew._base_manager.exists()
