"""A product under load: `python -m tests.chaos.producer SEED CAUSES`.

Writes models in every way until it is told to stop, some of it in transactions that roll back.
Before each transaction it writes down in the file CAUSES which events that must cause. Postgres may
go away under it; it then starts the next thing. It changes only objects that it made itself, so
that it knows what is stored without asking.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import django

from tests.chaos.causes import Causes, Expected

MOST_PER_SECOND = 20


def main() -> None:
    django.setup()
    from django.db import Error, close_old_connections, connection

    is_stopping = False

    def stop(*_: Any) -> None:
        nonlocal is_stopping
        is_stopping = True

    signal.signal(signal.SIGTERM, stop)
    product = Product(random.Random(int(sys.argv[1])), Causes(Path(sys.argv[2])))
    while not is_stopping:
        close_old_connections()
        try:
            product.do_something()
        except Error:
            if "CHAOS_WRITES_MUST_SUCCEED" in os.environ:
                raise
            product.forget()
            connection.close()
        time.sleep(1 / MOST_PER_SECOND)


class GoneError(Exception):
    """Rolls a transaction back."""


@dataclass
class Place:
    """A project of one owner, and a session in it: what is committed of them."""

    owner: Any
    project: Any
    session: Any
    name: str
    """The project's."""


class Product:
    """The things that happen in RemoteDevAI, at random."""

    def __init__(self, dice: random.Random, causes: Causes) -> None:
        self._dice = dice
        self._causes = causes
        self._places: dict[UUID, Place] = {}
        self._actions: list[tuple[int, Callable[[Place], None]]] = [
            (38, self._post),
            (10, self._post_many),
            (8, self._roll_back),
            (5, self._roll_back_a_part),
            (6, self._live_session),
            (3, self._live_session_at_once),
            (5, self._agent),
            (3, self._rename_all),
            (4, self._rename),
            (3, self._rename_and_roll_back),
            (4, self._post_and_rename),
            (3, self._delete_project),
            (1, self._make_and_delete_at_once),
            (4, self._record),
            (3, self._trigger),
            (2, self._user),
        ]

    def do_something(self) -> None:
        weights, actions = zip(*self._actions, strict=True)
        action = self._dice.choices(actions, weights)[0]
        action(self._place())

    def forget(self) -> None:
        """After an error nothing is known of what is stored of the places."""
        self._places.clear()

    # What happens is written down first.

    def _do(
        self,
        expected: Sequence[Expected],
        work: Callable[[], object],
        *,
        never: Sequence[Expected] = (),
        is_undone: bool = False,
        by_itself: bool = False,
    ) -> None:
        """Carry `work` out in a transaction; `by_itself` says that it is one without our block."""
        from django.db import transaction

        with self._causes.cause(expected, never) as outcomes:
            if by_itself:
                work()
            else:
                outcomes.append("rolled back")
                try:
                    with transaction.atomic():
                        work()
                        if is_undone:
                            raise GoneError
                        outcomes.append("unknown")
                except GoneError:
                    return
            outcomes.append("committed")

    def _place(self) -> Place:
        """Return a place of an owner at random, so that all have about the same to do."""
        from projects.models import Project, User
        from sessions_app.models import Session

        owner = self._dice.choice(
            list(User.objects.filter(username__startswith="u").order_by("id"))
        )
        if owner.id not in self._places:
            project = Project(id=self._id(), owner=owner, name=f"Site {self._word()}")
            session = Session(id=self._id(), project=project, owner=owner, title="Long")
            place = Place(owner, project, session, project.name)
            self._do([self._project(place)], lambda: project.save(force_insert=True))
            self._do(
                [self._step(place, session, "started")], lambda: session.save(force_insert=True)
            )
            self._places[owner.id] = place
        return self._places[owner.id]

    def _id(self) -> UUID:
        return UUID(int=self._dice.getrandbits(128), version=4)

    def _word(self) -> str:
        return f"{self._dice.getrandbits(64):x}"

    # What is expected.

    def _project(self, place: Place, event: str = "created") -> Expected:
        data: dict[str, Any] = {"id": str(place.project.id), "name": place.name}
        if event == "updated":
            data |= {"description": place.project.description, "archived": False}
        return Expected(f"project.{event}", str(place.owner.id), data)

    def _step(self, place: Place, session: Any, step: str) -> Expected:
        data = {"id": str(session.id), "projectId": str(place.project.id)}
        data |= {"projectName": place.name}
        return Expected(f"session.{step}", str(place.owner.id), data)

    def _said(self, place: Place, message: Any) -> Expected:
        data = {name: getattr(message, name) for name in ("sender", "content")}
        data |= {"id": str(message.id), "sessionId": str(place.session.id)}
        data |= {"projectId": str(place.project.id)}
        return Expected("session.message", str(place.owner.id), data)

    def _message(self, place: Place) -> Any:
        from sessions_app.models import SessionMessage

        content = self._dice.choice(["Zoë 🚀 ", "x", '{"a": 1.0}']) * self._dice.randint(1, 200)
        return SessionMessage(id=self._id(), session=place.session, sender="agent", content=content)

    # Messages.

    def _post(self, place: Place) -> None:
        message = self._message(place)
        self._do(
            [self._said(place, message)],
            lambda: message.save(force_insert=True),
            by_itself=self._dice.random() < 0.5,
        )

    def _post_many(self, place: Place) -> None:
        from sessions_app.models import SessionMessage

        messages = [self._message(place) for _ in range(self._dice.randint(2, 10))]
        self._do(
            [self._said(place, message) for message in messages],
            lambda: SessionMessage.objects.bulk_create(messages),
            by_itself=self._dice.random() < 0.5,
        )

    def _roll_back(self, place: Place) -> None:
        message = self._message(place)
        self._do([], message.save, never=[self._said(place, message)], is_undone=True)

    def _roll_back_a_part(self, place: Place) -> None:
        from django.db import transaction

        first, undone, last = (self._message(place) for _ in range(3))

        def work() -> None:
            first.save(force_insert=True)
            try:
                with transaction.atomic():
                    undone.save(force_insert=True)
                    raise GoneError
            except GoneError:
                last.save(force_insert=True)

        said = [self._said(place, message) for message in (first, last)]
        self._do(said, work, never=[self._said(place, undone)])

    # Sessions and agents.

    def _live_session(self, place: Place) -> None:
        from sessions_app.models import Session

        session = Session(id=self._id(), project=place.project, owner=place.owner, title="Live")
        for step, work in self._life_of(session):
            self._do([self._step(place, session, step)], work, by_itself=True)

    def _live_session_at_once(self, place: Place) -> None:
        from sessions_app.models import Session

        session = Session(id=self._id(), project=place.project, owner=place.owner, title="Short")
        life = self._life_of(session)
        self._do(
            [self._step(place, session, step) for step, _ in life],
            lambda: [work() for _, work in life],
        )

    def _life_of(self, session: Any) -> list[tuple[str, Callable[[], object]]]:
        return [
            ("started", lambda: session.save(force_insert=True)),
            ("paused", session.pause),
            ("resumed", session.resume),
            ("ended", session.end),
        ]

    def _agent(self, place: Place) -> None:
        from sessions_app.models import Agent

        agent = Agent(
            id=self._id(), owner=place.owner, name="desktop", platform="linux", version="2.4.1"
        )
        reason = self._word()
        known = {"id": str(agent.id), "name": "desktop"}
        busy = {**known, "previousStatus": "ONLINE", "status": "BUSY"}
        idle = {**known, "previousStatus": "BUSY", "status": "ONLINE"}
        self._do([], lambda: agent.save(force_insert=True))
        steps: list[tuple[str, dict[str, Any], Callable[[], object]]] = [
            ("connected", {**known, "platform": "linux", "version": "2.4.1"}, agent.connect),
            ("status_changed", busy, agent.set_busy),
            ("status_changed", idle, agent.set_idle),
            ("disconnected", {**known, "reason": reason}, lambda: agent.disconnect(reason)),
        ]
        for event, data, work in steps:
            self._do([Expected(f"agent.{event}", str(place.owner.id), data)], work, by_itself=True)

    def _record(self, place: Place) -> None:
        from sessions_app.models import Recording

        recording = Recording(id=self._id(), session=place.session, title="Screen")
        known = {"id": str(recording.id), "sessionId": str(place.session.id)}
        self._do([], lambda: recording.save(force_insert=True))
        if self._dice.random() < 0.3:
            error = self._word()
            failed = Expected("recording.failed", str(place.owner.id), {**known, "error": error})
            self._do([failed], lambda: recording.fail(error), by_itself=True)
        else:
            done, work = self._completion(recording, place.owner, size=1_000)
            self._do([done], work, by_itself=True)

    def _completion(
        self, recording: Any, owner: Any, *, size: int
    ) -> tuple[Expected, Callable[[], object]]:
        url = f"https://cdn.example.com/{self._word()}.webm"
        data: dict[str, Any] = {"id": str(recording.id), "sessionId": str(recording.session_id)}
        data |= {"url": url, "thumbnailUrl": None, "duration": 7, "fileSize": size}
        return Expected("recording.completed", str(owner.id), data), lambda: recording.complete(
            url=url, duration_seconds=7, file_size_bytes=size
        )

    # Projects.

    def _rename_all(self, place: Place) -> None:
        """One statement for the projects of many owners."""
        from projects.models import Project

        text, places = self._word(), list(self._places.values())
        for other in places:
            other.project.description = text
        projects = Project.objects.filter(id__in=[other.project.id for other in places])
        self._do(
            [self._project(other, "updated") for other in places],
            lambda: projects.update(description=text),
            by_itself=True,
        )

    def _rename(self, place: Place) -> None:
        self._set_name(place)
        fields = ["name", "description"]
        self._do(
            [self._project(place, "updated")], lambda: place.project.save(update_fields=fields)
        )

    def _set_name(self, place: Place) -> None:
        place.project.description, place.name = self._word(), f"Site {self._word()}"
        place.project.name = place.name

    def _rename_and_roll_back(self, place: Place) -> None:
        """The instance keeps the name that the database never had; what follows must not tell it."""
        before = place.name, place.project.description
        self._set_name(place)
        never = [self._project(place, "updated")]
        self._do([], place.project.save, never=never, is_undone=True)
        place.name, place.project.description = before
        self._live_session_at_once(place)
        place.project.name = place.name

    def _post_and_rename(self, place: Place) -> None:
        first, last = self._message(place), self._message(place)
        self._set_name(place)

        def work() -> None:
            first.save(force_insert=True)
            place.project.save(update_fields=["name", "description"])
            last.save(force_insert=True)

        renamed = self._project(place, "updated")
        self._do([self._said(place, first), renamed, self._said(place, last)], work)

    def _short(self, place: Place) -> tuple[Place, list[Callable[[], object]]]:
        from projects.models import Project
        from sessions_app.models import Session

        project = Project(id=self._id(), owner=place.owner, name="Short-lived")
        session = Session(id=self._id(), project=project, owner=place.owner, title="Short-lived")
        return Place(place.owner, project, session, project.name), [
            lambda: project.save(force_insert=True),
            lambda: session.save(force_insert=True),
            project.delete,
        ]

    def _delete_project(self, place: Place) -> None:
        short, steps = self._short(place)
        gone = self._project(short, "deleted")
        expected = [self._project(short), self._step(short, short.session, "started"), gone]
        for event, work in zip(expected, steps, strict=True):
            self._do([event], work, by_itself=True)

    def _make_and_delete_at_once(self, place: Place) -> None:
        short, steps = self._short(place)
        never = [self._project(short), self._step(short, short.session, "started")]
        never.append(self._project(short, "deleted"))
        self._do([], lambda: [work() for work in steps], never=never)

    # What only the platform hears of, and what comes from outside.

    def _user(self, _: Place) -> None:
        """An account from its creation over both storage thresholds to its deletion."""
        from projects.models import Project, User
        from sessions_app.models import Recording, Session

        quota = self._dice.randint(10**6, 10**12)
        name = f"guest-{self._word()}"
        user = User(
            id=self._id(), username=name, email=f"{name}@example.com", storage_quota_bytes=quota
        )
        project = Project(id=self._id(), owner=user, name="Guest")
        place = Place(user, project, None, "Guest")
        session = Session(id=self._id(), project=project, owner=user, title="Guest")
        account = {"id": str(user.id), "email": user.email}

        def told(event: str, **data: Any) -> Expected:
            return Expected(event, str(user.id), data)

        self._do([told("user.created", **account, name="")], lambda: user.save(force_insert=True))
        user.name = self._word()
        self._do([told("user.updated", **account, name=user.name)], user.save, by_itself=True)
        self._do(
            [self._project(place), self._step(place, session, "started")],
            lambda: [row.save(force_insert=True) for row in (project, session)],
        )
        used = 0
        for percent, event in ((85, "storage.quota_warning"), (20, "storage.quota_exceeded")):
            recording = Recording(id=self._id(), session=session, title="Screen")
            self._do([], partial(recording.save, force_insert=True))
            size = quota * percent // 100
            used += size
            done, work = self._completion(recording, user, size=size)
            self._do([done, told(event, usedBytes=used, quotaBytes=quota)], work, by_itself=True)
        gone = [self._project(place, "deleted"), told("user.deleted", **account)]
        self._do(gone, user.delete, by_itself=True)

    def _trigger(self, place: Place) -> None:
        from webhooks import catalog, service

        name = self._dice.choice(["subscription.created", "subscription.updated"])
        data = {**catalog.get_type(name).example, "id": f"sub_{self._word()}"}
        expected = Expected(name, str(place.owner.id), data)
        self._do([expected], lambda: service.trigger_event(name, place.owner, data))


if __name__ == "__main__":
    main()
