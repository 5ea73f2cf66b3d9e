"""What a transaction's events say of its net effect, to whom they go, and what listeners may do."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from django.db import models, transaction
from django.db.models.signals import post_delete, pre_delete
from django.test.utils import isolate_apps

from projects.models import Project, User
from sessions_app.models import Session
from tests.webhooks.tracking.own_models import make_model, tables_of
from webhooks.models import Delivery, Event, Webhook
from webhooks.testing import captured_events
from webhooks.tracking import Change, TrackedModel, Tracking, declaration, track, tracked, writes

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # Some models here send what their schema does not allow.
    pytest.mark.unfit_data,
]

MakeWebhook = Callable[..., Webhook]
MakeModels = Callable[..., Any]


@pytest.fixture
def make_models(own_registries: None) -> Iterator[MakeModels]:
    """Return a function that tracks models, unless they are, and makes their tables until the end of
    the test; it returns their managers."""

    def make(*wanted: type[models.Model], fields: Sequence[str] = ()) -> list[Any]:
        for model in wanted:
            if writes.tracking_of(model) is None:
                tracked(owner=None, fields=fields)(model)
        assert [one.problems for one in declaration.declarations() if one.problems] == []
        stack.enter_context(tables_of(*wanted))
        return [model._default_manager for model in wanted]

    with isolate_apps("projects"), ExitStack() as stack:
        yield make


# Webhooks with filters get what was committed.


def recipients(event_type: str) -> list[str]:
    rows = Delivery.objects.filter(event__type=event_type).select_related("webhook")
    return sorted(row.webhook.name for row in rows)


def test_filter_decides_by_the_values_that_are_committed(
    project: Project, make_webhook: MakeWebhook
) -> None:
    make_webhook(name="archived", events=["project.updated"], filter={"archived": True})
    make_webhook(name="open", events=["project.updated"], filter={"archived": False})
    make_webhook(name="all", events=["project.updated"])
    with transaction.atomic():
        project.name = "B"
        project.save()
        project.archived = True
        project.save()

    assert recipients("project.updated") == ["all", "archived"]
    event = Event.objects.get(type="project.updated")
    assert event.fanout_count == 2


def test_filter_withholds_what_was_committed_otherwise(
    project: Project, make_webhook: MakeWebhook
) -> None:
    make_webhook(events=["project.updated"], filter={"archived": True})
    with transaction.atomic():
        project.archived = True
        project.save()
        project.archived = False
        project.name = "B"
        project.save()

    assert recipients("project.updated") == []
    assert Event.objects.get(type="project.updated").fanout_count == 0


def test_filter_sees_the_final_values_of_a_new_row(user: User, make_webhook: MakeWebhook) -> None:
    make_webhook(name="final", events=["project.created"], filter={"name": "Final"})
    with transaction.atomic():
        project = Project.objects.create(owner=user, name="Draft")
        project.name = "Final"
        project.save()

    assert recipients("project.created") == ["final"]


def test_event_that_is_stored_anew_keeps_its_place(
    project: Project, make_webhook: MakeWebhook
) -> None:
    make_webhook(events=["project.*"], order="object", filter={"archived": True})
    with transaction.atomic():
        project.archived = True
        project.save()
        first = Event.objects.get(type="project.updated")
        other = Project.objects.create(owner=project.owner, name="Other")
        project.name = "C"
        project.save()

    again = Event.objects.get(type="project.updated")
    assert (again.id, again.sequence, again.created_at) == (
        first.id, first.sequence, first.created_at,
    )  # fmt: skip
    assert json.loads(bytes(again.payload))["data"]["name"] == "C"
    assert Event.objects.get(object_reference=f"project:{other.pk}").sequence > again.sequence
    assert Delivery.objects.get(event=again).object_sequence == again.sequence


def test_savepoint_takes_back_what_it_stored_anew(
    project: Project, make_webhook: MakeWebhook
) -> None:
    make_webhook(name="open", events=["project.updated"], filter={"archived": False})
    with transaction.atomic():
        project.name = "B"
        project.save()
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            project.archived = True
            project.save()
            assert recipients("project.updated") == []
            raise ZeroDivisionError

    assert recipients("project.updated") == ["open"]


# The last event of an object.


@contextmanager
def listening(
    signal: Any, listener: Callable[..., None], sender: type[models.Model]
) -> Iterator[None]:
    signal.connect(listener, sender=sender)
    try:
        yield
    finally:
        signal.disconnect(listener, sender=sender)


@pytest.fixture
def session(project: Project) -> Session:
    return Session.objects.create(project=project, owner=project.owner, title="S")


def test_listener_that_updates_the_parent_adds_nothing_after_its_deleted(
    project: Project, session: Session
) -> None:
    def touch(instance: Any, **_: Any) -> None:
        Project.objects.filter(pk=instance.project_id).update(description="No sessions")

    with listening(post_delete, touch, Session), captured_events() as captured:
        project.delete()

    assert captured.types == ["project.deleted"]


def test_listener_that_saves_the_row_itself_adds_nothing_after_its_deleted(
    project: Project,
) -> None:
    def save(instance: Any, **_: Any) -> None:
        instance.description = "Going"
        instance.save()

    with listening(pre_delete, save, Project), captured_events() as captured:
        project.delete()

    assert captured.types[-1] == "project.deleted"
    assert captured.types.count("project.deleted") == 1


def test_row_below_two_others_is_deleted_once(make_models: MakeModels) -> None:
    house_model = make_model("House")
    floor_model = make_model("Floor", house=models.ForeignKey(house_model, models.CASCADE))
    lamp_model = make_model(
        "Lamp",
        house=models.ForeignKey(house_model, models.CASCADE),
        floor=models.ForeignKey(floor_model, models.CASCADE),
    )
    houses, floors, lamps = make_models(house_model, floor_model, lamp_model)
    house = houses.create()
    lamps.create(house=house, floor=floors.create(house=house))

    with listening(post_delete, lambda **_: None, lamp_model), captured_events() as captured:
        house.delete()

    assert sorted(captured.types) == ["floor.deleted", "house.deleted", "lamp.deleted"]


# Whatever a declared function or a value does, the save succeeds.


def test_function_that_fails_fails_no_save(make_models: MakeModels, caplog: Any) -> None:
    jar_model = make_model("Jar")

    def fails(*_: Any) -> Iterator[Change]:
        yield Change("project.created", None, {"x": 1 / 0})

    track(
        jar_model,
        Tracking(
            "jar", fields=("name",), created=fails, updated=fails, deleted=fails, transitions=fails
        ),
    )
    (jars,) = make_models(jar_model)
    with captured_events() as captured:
        jar = jars.create(name="a")
        jar.name = "b"
        jar.save()
        assert jars.get().name == "b"
        jar.delete()

    assert captured.types == []
    assert "An event of jar:" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_values_of_a_field_s_own_kind_are_sent_as_text(make_models: MakeModels) -> None:
    class Code:
        def __init__(self, text: str) -> None:
            self.text = text

        def __str__(self) -> str:
            return self.text

    class CodeField(models.CharField):  # type: ignore[type-arg]
        def from_db_value(self, value: str, *_: Any) -> Code:
            return Code(value)

        def get_prep_value(self, value: Any) -> str:
            return str(value)

    class Tin(TrackedModel):
        name = CodeField(max_length=10)

        class Meta:
            app_label = "projects"

    (tins,) = make_models(Tin, fields=["name"])
    with captured_events() as captured:
        tins.create(name="c")

    assert captured.data_of("tin.created")[0]["name"] == "c"


def test_model_whose_init_reads_its_fields_is_saved(make_models: MakeModels) -> None:
    class Pot(TrackedModel):
        name = models.CharField(max_length=10)
        first = models.IntegerField(default=0)
        second = models.IntegerField(default=0)

        class Meta:
            app_label = "projects"

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.was = (self.first, self.second)

    (pots,) = make_models(Pot, fields=["name"])
    with captured_events() as captured:
        pot = pots.create(name="a")
        pot.name = "b"
        pot.save()

    assert captured.types == ["pot.created", "pot.updated"]


def test_numbers_without_a_json_form_are_null(make_models: MakeModels) -> None:
    (cups,) = make_models(make_model("Cup", size=models.FloatField()), fields=["size"])
    with captured_events() as captured:
        cup = cups.create(size=float("nan"))
        for size in (1.0, float("inf")):
            cup.size = size
            cup.save()

    assert [data["size"] for _, data in captured.types_and_data] == [None, 1.0, None]


def test_event_goes_out_without_what_is_too_large(make_models: MakeModels) -> None:
    (bags,) = make_models(make_model("Bag", content=models.JSONField()), fields=["name", "content"])
    with captured_events() as captured, transaction.atomic():
        bag = bags.create(name="a", content="small")
        bag.name, bag.content = "b", {"a": "y" * 300_000}
        bag.save()

    ((_, data),) = captured.types_and_data
    assert (data["name"], data["content"]) == ("b", None)


def test_texts_that_are_too_large_together_are_cut(make_models: MakeModels) -> None:
    texts = dict.fromkeys(("first", "second", "third"), "\N{GRINNING FACE}" * 40_000)
    (books,) = make_models(
        make_model("Book", **{name: models.TextField() for name in texts}), fields=["name", *texts]
    )
    with captured_events() as captured:
        books.create(name="t", **texts)

    ((_, data),) = captured.types_and_data
    assert data["name"] == "t"
    assert all(10_000 <= len(data[name]) < 40_000 for name in texts)
