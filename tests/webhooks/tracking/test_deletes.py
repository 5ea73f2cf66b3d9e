"""Deleting users and projects: events, recipients, the owner's webhooks, and the cost."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, models
from django.db.models.signals import post_delete
from django.test.utils import isolate_apps

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session, SessionMessage
from tests.webhooks.tracking.own_models import declare, make_model, tables_of
from webhooks import service
from webhooks.models import Delivery, Webhook
from webhooks.testing import captured_events
from webhooks.tracking import TrackedModel
from webhooks.tracking.deletes import needs_collector

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[3]


def furnish(owner: User, name: str = "P") -> Project:
    project = Project.objects.create(owner=owner, name=name)
    session = Session.objects.create(project=project, owner=owner, title="S")
    SessionMessage.objects.create(session=session, sender="A", content="M")
    Recording.objects.create(session=session, title="R", status="READY", file_size_bytes=1)
    Agent.objects.create(owner=owner, name="A", platform="x", version="1", status="ONLINE")
    return project


def test_user_deleted_goes_to_platform_webhooks_only(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    own = make_webhook()
    platform = make_webhook(owner=None, is_platform=True)
    furnish(user, "First")
    furnish(user, "Second")
    key = user.pk
    waiting = set(service.get_deliveries(own, user).values_list("pk", flat=True))

    with captured_events() as captured:
        user.delete()

    assert captured.types == ["user.deleted", "project.deleted", "project.deleted"]
    assert {event.owner_id for event in captured.events} == {key}
    reached = Delivery.objects.filter(event__in=captured.events)
    assert list(reached.values_list("webhook_id", flat=True)) == [platform.pk] * 3
    own.refresh_from_db()
    assert (own.active, own.owner_id, own.deleted_at is None) == (False, None, False)
    left = own.deliveries.values_list("pk", "status", "next_attempt_at", "error")
    assert set(left) == {(pk, "CANCELLED", None, "The webhook was deleted.") for pk in waiting}
    assert all(own.deliveries.values_list("finished_at", flat=True))


def test_deliveries_in_flight_stay_with_their_worker(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook()
    Project.objects.create(owner=user, name="P")
    Delivery.objects.update(status="SENDING", claimed_by=webhook.pk)

    user.delete()

    assert Delivery.objects.get(webhook=webhook).status == "SENDING"


def test_others_webhooks_and_deliveries_are_untouched(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    theirs = make_webhook(owner=other_user)
    Project.objects.create(owner=other_user, name="P")

    User.objects.filter(pk=user.pk).delete()

    theirs.refresh_from_db()
    assert theirs.active
    assert theirs.deliveries.get().status == "PENDING"


def test_delete_returns_the_same_counts_as_django(user: User) -> None:
    furnish(user)

    total, per_model = user.delete()

    assert per_model == {
        "projects.Project": 1, "sessions_app.Session": 1, "sessions_app.SessionMessage": 1,
        "sessions_app.Recording": 1, "sessions_app.Agent": 1, "sessions_app.StorageLevel": 1,
        "projects.User": 1,
    }  # fmt: skip
    assert total == 7


def test_sessions_deleted_with_their_project_cause_no_events(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    project = furnish(user)
    other = furnish(user, "Other")

    with captured_events() as captured:
        Project.objects.filter(pk=project.pk).delete()

    assert captured.types == ["project.deleted"]
    assert [row.project_id for row in Session.objects.all()] == [other.pk]
    assert SessionMessage.objects.count() == Recording.objects.count() == 1


def test_refused_delete_stores_and_deletes_nothing(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(user)
    field: Any = Agent._meta.get_field("owner")
    monkeypatch.setattr(field.remote_field, "on_delete", models.PROTECT)

    with captured_events() as captured, pytest.raises(models.ProtectedError):
        user.delete()

    assert captured.types == []
    assert SessionMessage.objects.count() == 1


def test_delete_signals_are_still_sent_for_every_row(user: User, other_user: User) -> None:
    project = furnish(user)
    Session.objects.update(owner=other_user)
    Session.objects.create(project=project, owner=user, title="S")
    heard: list[str] = []

    def hear(instance: Session, **_: Any) -> None:
        heard.append(instance.title)

    post_delete.connect(hear, sender=Session)
    try:
        user.delete()
    finally:
        post_delete.disconnect(hear, sender=Session)

    # One of the rows is found through its project, which must therefore be deleted later.
    assert heard == ["S", "S"]
    assert not SessionMessage.objects.exists()


def test_rows_with_untracked_dependents_are_left_to_django() -> None:
    assert not needs_collector(Project)
    with isolate_apps("sessions_app"):

        class Shelf(TrackedModel):
            class Meta(TrackedModel.Meta):
                app_label = "sessions_app"

        class Box(TrackedModel):
            shelf = models.ForeignKey(Shelf, on_delete=models.CASCADE)

            class Meta(TrackedModel.Meta):
                app_label = "sessions_app"

        class Label(models.Model):  # noqa: DJ008
            box = models.ForeignKey(Box, on_delete=models.CASCADE)

            class Meta:
                app_label = "sessions_app"

        assert needs_collector(Box)
        assert needs_collector(Shelf)
        assert not needs_collector(Label)


@pytest.mark.usefixtures("own_registries")
@isolate_apps("projects")
def test_rows_of_hidden_relations_are_deleted_with_events() -> None:
    shelf = make_model("Shelf")
    box = make_model("Box", shelf=models.ForeignKey(shelf, models.CASCADE, related_name="boxes"))
    label = make_model("Label", box=models.ForeignKey(box, models.CASCADE, related_name="+"))
    declare(shelf, box, label)
    with tables_of(shelf, box, label):
        for is_single in (True, False):
            row = box.objects.create(name="B", shelf=shelf.objects.create(name="S"))
            label.objects.create(name="L", box=row)

            with captured_events() as captured:
                (row if is_single else box.objects.all()).delete()

            assert captured.types == ["box.deleted", "label.deleted"]
        label.objects.create(name="L", box=box.objects.create(name="B", shelf=row.shelf))

        with captured_events() as captured:
            row.shelf.delete()

        assert captured.types == ["shelf.deleted", "box.deleted", "label.deleted"]
        assert not label.objects.exists()


def in_own_process(program: str) -> str:
    """Run a program in its own process, for its own memory, and return its output."""
    settings = connection.settings_dict
    host = settings["HOST"] or settings["OPTIONS"]["host"]
    name = settings["USER"] or settings["OPTIONS"]["user"]
    url = f"postgres:///{settings['NAME']}?host={host}&user={name}"
    prelude = (
        "import django, re; django.setup()\n"
        "from projects.models import Project, User\n"
        "from sessions_app.models import Agent, Recording, Session, SessionMessage\n"
        # ru_maxrss would start with the memory of the parent process.
        "def peak():\n"
        "    status = open('/proc/self/status').read()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + program],
        cwd=ROOT,
        env=os.environ
        | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "config.settings", "DEBUG": "0"}
        | {"SECRET_KEY": "x", "ALLOWED_HOSTS": "x", "WEBHOOKS_ENCRYPTION_KEYS": "A" * 43 + "="},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


FILL_SQL = """
INSERT INTO sessions_app_session (id, project_id, owner_id, title, status, started_at)
SELECT gen_random_uuid(), %(project)s, %(owner)s, 'S', 'ACTIVE', now() FROM generate_series(1, 10000);
INSERT INTO sessions_app_sessionmessage (id, session_id, sender, content, created_at)
SELECT gen_random_uuid(), s.id, 'A', repeat('M', 100), now()
  FROM sessions_app_session s, generate_series(1, 15);
"""


def test_deleting_a_user_does_not_load_its_dependents(user: User) -> None:
    project = Project.objects.create(owner=user, name="P")
    with connection.cursor() as cursor:
        cursor.execute(FILL_SQL, {"project": project.pk, "owner": user.pk})

    before, after, total = in_own_process(
        "user = User.objects.get(); before = peak()\n"
        "total, _ = user.delete(); print(before, peak(), total)"
    ).split()

    assert int(total) == 160_002
    assert int(after) - int(before) < 20


def test_ten_thousand_rows_at_once_stay_under_200_mb(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook()

    numbers = in_own_process(
        "user = User.objects.get(); project = Project.objects.create(owner=user, name='P')\n"
        "rows = [Session(project=project, owner=user, title='S' * 100) for _ in range(10_000)]\n"
        "Session.objects.bulk_create(rows); print(peak())\n"
        "Session.objects.update(status='PAUSED'); print(peak())\n"
        "for row in rows: row.status = 'COMPLETED'\n"
        "Session.objects.bulk_update(rows, ['status']); print(peak())\n"
    )

    assert max(map(int, numbers.split())) < 200, numbers
    assert Delivery.objects.filter(event_type="session.ended").count() == 10_000


def test_update_of_any_size_holds_a_batch_at_a_time(user: User) -> None:
    project = Project.objects.create(owner=user, name="P")
    with connection.cursor() as cursor:
        cursor.execute(FILL_SQL.replace("15", "5"), {"project": project.pk, "owner": user.pk})

    before, after, count = in_own_process(
        "Session.objects.filter(title='nothing').update(title='T'); before = peak()\n"
        "count = SessionMessage.objects.update(sender='B'); print(before, peak(), count)"
    ).split()

    assert int(count) == 50_000
    assert int(after) - int(before) < 25, (before, after)
