"""System checks: one test for each id."""

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.test.utils import isolate_apps

from projects.models import Project
from tests.webhooks.tracking.own_models import Living
from webhooks import catalog
from webhooks.catalog import TEXT, EventType, OlderVersion, object_schema
from webhooks.tracking import TrackedModel, TrackedQuerySet, Tracking, track
from webhooks.tracking.checks import check_catalogue, check_tracked_models

GOOD = EventType(
    name="invoice.sent",
    description="An invoice was sent.",
    schema=object_schema({"number": TEXT}),
    example={"number": "2026-1"},
)


pytestmark = pytest.mark.usefixtures("own_registries")


def model_problems() -> list[tuple[str | None, str]]:
    return [(problem.id, problem.msg) for problem in check_tracked_models(None)]


def catalogue_problems(*event_types: EventType) -> list[tuple[str | None, str]]:
    catalog.register(*event_types)
    return [(problem.id, problem.msg) for problem in check_catalogue(None)]


def test_our_own_declarations_have_no_problem() -> None:
    assert check_catalogue(None) == []
    assert check_tracked_models(None) == []


def test_types_of_other_apps_are_registered_and_may_be_repeated() -> None:
    assert catalogue_problems(GOOD, replace(GOOD)) == []
    catalog.validate_data("invoice.sent", {"number": "2026-2"})


def test_e001_clash() -> None:
    assert catalogue_problems(GOOD, replace(GOOD, description="Else")) == [
        ("webhooks.E001", "The event type 'invoice.sent' has two different declarations.")
    ]
    assert catalog.get_type("invoice.sent") == GOOD


def test_e002_invalid_schema() -> None:
    ((id_, message),) = catalogue_problems(replace(GOOD, schema={"type": "strong"}))

    assert id_ == "webhooks.E002"
    assert message.startswith("The schema of invoice.sent is not valid JSON Schema: ")


def test_e003_invalid_example() -> None:
    ((id_, message),) = catalogue_problems(replace(GOOD, example={"number": 7}))

    assert id_ == "webhooks.E003"
    assert message.startswith("The example of invoice.sent does not fit its schema: ")


@pytest.mark.parametrize(
    ("older", "words"),
    [
        (OlderVersion(GOOD.version, GOOD.schema, dict), "their dates are not in order"),
        (OlderVersion(date(2025, 1, 1), GOOD.schema, lambda data: {}), "does not fit its schema"),
        (
            OlderVersion(date(2025, 1, 1), GOOD.schema, lambda data: data["x"]),
            "makes what does not fit",
        ),
    ],
)
def test_e015_wrong_versions(older: OlderVersion, words: str) -> None:
    ((id_, message),) = catalogue_problems(replace(GOOD, older=(older,)))

    assert id_ == "webhooks.E015"
    assert message.startswith("The versions of invoice.sent are wrong: ")
    assert words in message


@pytest.mark.parametrize("name", ["invoice", "Invoice.Sent", "invoice.sent.twice", "invoice."])
def test_e004_malformed_name(name: str) -> None:
    assert catalogue_problems(replace(GOOD, name=name)) == [
        (
            "webhooks.E004",
            f"The event type {name!r} is not a name of the form <group>.<action> in lower case.",
        )
    ]


@isolate_apps("projects")
def test_e005_manager_without_events() -> None:
    class Note(TrackedModel):
        plain = models.Manager()

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    track(Note, Tracking(name="note", fields=()))

    assert [(problem.id, problem.msg) for problem in check_tracked_models(None)] == [
        ("webhooks.E005", "The manager 'plain' of projects.Note causes no events.")
    ]


@isolate_apps("projects")
def test_e006_cascade_from_an_untracked_model() -> None:
    class Team(models.Model):  # noqa: DJ008
        class Meta:
            app_label = "projects"

    class Member(TrackedModel):
        team = models.ForeignKey(Team, on_delete=models.CASCADE)
        project = models.ForeignKey(Project, on_delete=models.CASCADE)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    track(Member, Tracking(name="member", fields=("team_id",), deleted=lambda row: ()))

    assert [(problem.id, problem.msg) for problem in check_tracked_models(None)] == [
        ("webhooks.E006", "Deleting a projects.Team deletes projects.Member without events.")
    ]


@isolate_apps("projects")
def test_e006_cascade_over_a_generic_relation() -> None:
    class Note(TrackedModel):
        content_type = models.ForeignKey(ContentType, on_delete=models.DO_NOTHING)
        object_id = models.UUIDField()
        subject = GenericForeignKey()

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    class Team(models.Model):  # noqa: DJ008
        notes = GenericRelation(Note)

        class Meta:
            app_label = "projects"

    class Page(TrackedModel):
        notes = GenericRelation(Note)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    track(Note, Tracking(name="note", fields=(), deleted=lambda row: ()))
    track(Page, Tracking(name="page", fields=()))

    assert model_problems() == [
        ("webhooks.E006", f"Deleting a projects.{name} deletes projects.Note without events.")
        for name in ("Team", "Page")
    ]


@isolate_apps("projects")
def test_e006_cascade_through_a_model_whose_deletes_are_no_events() -> None:
    class Team(models.Model):  # noqa: DJ008
        class Meta:
            app_label = "projects"

    class Member(TrackedModel):
        team = models.ForeignKey(Team, on_delete=models.CASCADE)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    class Badge(TrackedModel):
        member = models.ForeignKey(Member, on_delete=models.CASCADE)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    track(Member, Tracking(name="member", fields=()))
    track(Badge, Tracking(name="badge", fields=(), deleted=lambda row: ()))

    assert model_problems() == [
        ("webhooks.E006", "Deleting a projects.Team deletes projects.Badge without events.")
    ]


@isolate_apps("projects")
def test_e007_cascade_onto_itself() -> None:
    class Folder(TrackedModel):
        parent = models.ForeignKey("self", on_delete=models.CASCADE)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    track(Folder, Tracking(name="folder", fields=("parent_id",)))

    assert [(problem.id, problem.msg) for problem in check_tracked_models(None)] == [
        ("webhooks.E007", "Deletes of projects.Folder cascade to rows of the same model.")
    ]


@isolate_apps("projects")
def test_e007_cascade_in_a_circle() -> None:
    class Team(TrackedModel):
        lead = models.ForeignKey("Member", on_delete=models.CASCADE, null=True, related_name="+")

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    class Squad(Team):
        class Meta(TrackedModel.Meta):
            app_label = "projects"
            proxy = True

    class Member(TrackedModel):
        squad = models.ForeignKey(Squad, on_delete=models.CASCADE)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    class Badge(TrackedModel):
        member = models.ForeignKey(Member, on_delete=models.CASCADE)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    for model in (Team, Member, Badge):
        track(model, Tracking(name=str(model._meta.model_name), fields=()))

    assert model_problems() == [
        ("webhooks.E007", f"Deletes of projects.{name} cascade to rows of the same model.")
        for name in ("Team", "Member")
    ]


@isolate_apps("projects")
def test_e005_manager_whose_rows_are_plain() -> None:
    class Plain(models.Manager.from_queryset(TrackedQuerySet)):  # type: ignore[misc]
        def get_queryset(self) -> models.QuerySet[Any]:
            return models.QuerySet(self.model, using=self._db)

    class Note(TrackedModel):
        objects = Plain()

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    track(Note, Tracking(name="note", fields=()))

    assert model_problems() == [
        ("webhooks.E005", "The manager 'objects' of projects.Note causes no events.")
    ]


@isolate_apps("projects")
def test_e005_manager_of_a_proxy() -> None:
    class Website(Project):
        plain = models.Manager()

        class Meta:
            app_label = "projects"
            proxy = True

    assert model_problems() == [
        ("webhooks.E005", "The manager 'plain' of projects.Website causes no events.")
    ]


@isolate_apps("projects")
def test_e008_plain_model_that_is_tracked() -> None:
    class Note(models.Model):  # noqa: DJ008
        class Meta:
            app_label = "projects"

    track(Note, Tracking(name="note", fields=()))

    assert model_problems() == [
        ("webhooks.E008", "projects.Note is tracked, but its writes cause no events.")
    ]


@isolate_apps("projects")
def test_e008_abstract_model_that_is_tracked() -> None:
    class Note(TrackedModel):
        class Meta(TrackedModel.Meta):
            app_label = "projects"
            abstract = True

    track(Note, Tracking(name="note", fields=()))

    assert model_problems() == [
        ("webhooks.E008", "projects.Note is tracked, but its writes cause no events.")
    ]


@isolate_apps("projects")
def test_e009_tracked_model_without_events() -> None:
    class Note(TrackedModel):
        class Meta(TrackedModel.Meta):
            app_label = "projects"

    assert model_problems() == [
        ("webhooks.E009", "projects.Note derives from TrackedModel, but is not tracked.")
    ]


@pytest.mark.parametrize("is_tracked", [False, True])
@isolate_apps("projects")
def test_e010_child_with_a_table_of_its_own(is_tracked: bool) -> None:
    class Special(Project):
        class Meta:
            app_label = "projects"

    class Renamed(Special):
        class Meta:
            app_label = "projects"
            proxy = True

    if is_tracked:
        track(Special, Tracking(name="special", fields=("name",)))

    message = "go to several tables (multi-table inheritance) and cause no events."
    assert model_problems() == [
        ("webhooks.E010", f"Writes of projects.Special {message}"),
        ("webhooks.E010", f"Writes of projects.Renamed {message}"),
    ]


@isolate_apps("projects")
def test_e011_model_that_is_tracked_twice() -> None:
    class Website(Project):
        class Meta:
            app_label = "projects"
            proxy = True

    track(Website, Tracking(name="website", fields=("name",)))

    assert model_problems() == [
        (
            "webhooks.E011",
            "projects.Project is tracked twice; the second declaration is ignored.",
        )
    ]


@isolate_apps("projects")
def test_e012_columns_that_do_not_exist() -> None:
    class Note(TrackedModel):
        project = models.ForeignKey(Project, on_delete=models.CASCADE)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    related = ("project__title", "project__name")
    track(Note, Tracking(name="note", fields=("project", "project_id"), related=related))

    assert model_problems() == [
        ("webhooks.E012", f"projects.Note is tracked by {name!r}, which is not a column of it.")
        for name in ("project", "project__title")
    ]


@pytest.mark.parametrize("on_delete", [models.SET_NULL, models.SET(None)])
@isolate_apps("projects")
def test_e013_delete_that_empties_a_column(on_delete: Any) -> None:
    class Note(TrackedModel):
        project = models.ForeignKey(Project, null=True, on_delete=on_delete)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    track(Note, Tracking(name="note", fields=("project_id",)))

    assert model_problems() == [
        (
            "webhooks.E013",
            "Deleting a projects.Project changes projects.Note without events.",
        )
    ]


@pytest.mark.parametrize("named", ["objects", "everything"])
@isolate_apps("projects")
def test_e017_base_manager_that_hides_rows(named: str) -> None:
    class Note(TrackedModel):
        name = models.CharField(max_length=10)
        everything = TrackedQuerySet.as_manager()
        objects = Living()

        class Meta(TrackedModel.Meta):
            app_label = "projects"
            base_manager_name = named

    track(Note, Tracking(name="note", fields=()))

    hiding = [("webhooks.E017", "The base manager 'objects' of projects.Note hides rows.")]
    assert model_problems() == (hiding if named == "objects" else [])
