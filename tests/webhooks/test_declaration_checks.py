"""System checks: one test for each id."""

from dataclasses import replace

import pytest
from django.db import models
from django.test.utils import isolate_apps

from projects.models import Project
from webhooks import catalog
from webhooks.catalog import TEXT, EventType, object_schema
from webhooks.checks.declarations import check_catalogue, check_tracked_models
from webhooks.models import writes
from webhooks.models.tracking import TrackedModel, Tracking, track

GOOD = EventType(
    name="invoice.sent",
    description="An invoice was sent.",
    schema=object_schema({"number": TEXT}),
    example={"number": "2026-1"},
)


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_types", dict(catalog._types))
    monkeypatch.setattr(catalog, "_validators", dict(catalog._validators))
    monkeypatch.setattr(catalog, "_clashes", list(catalog._clashes))
    monkeypatch.setattr(writes, "_trackings", dict(writes._trackings))
    monkeypatch.setattr(writes, "_types", dict(writes._types))


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
        ("webhooks.E001", "The event type 'invoice.sent' is declared twice, differently.")
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


@pytest.mark.parametrize("name", ["invoice", "Invoice.Sent", "invoice.sent.twice", "invoice."])
def test_e004_malformed_name(name: str) -> None:
    assert catalogue_problems(replace(GOOD, name=name)) == [
        ("webhooks.E004", f"The event type {name!r} is not named <group>.<what>, in lower case.")
    ]


@isolate_apps("projects")
def test_e005_manager_without_events() -> None:
    class Note(TrackedModel):
        plain = models.Manager()

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    track(Note, Tracking(name="note", fields=()))

    assert [(problem.id, problem.msg) for problem in check_tracked_models(None)] == [
        ("webhooks.E005", "The manager 'plain' of projects.Note writes without events.")
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
def test_e007_cascade_onto_itself() -> None:
    class Folder(TrackedModel):
        parent = models.ForeignKey("self", on_delete=models.CASCADE)

        class Meta(TrackedModel.Meta):
            app_label = "projects"

    track(Folder, Tracking(name="folder", fields=("parent_id",)))

    assert [(problem.id, problem.msg) for problem in check_tracked_models(None)] == [
        ("webhooks.E007", "Deletes of projects.Folder cascade onto itself, however deep.")
    ]
