"""What a producer has made so far, and how it does anything: written down first, then done."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction

from projects.models import Project, User
from sessions_app.models import Session, SessionMessage
from tests.chaos.causes import Causes, Expected


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
    """Does things in RemoteDevAI and writes down before what they must cause."""

    def __init__(self, dice: random.Random, causes: Causes) -> None:
        self.dice = dice
        self._causes = causes
        self.places: dict[UUID, Place] = {}
        """By the ids of their owners."""

    def forget(self) -> None:
        """After an error nothing is known of what is stored of the places."""
        self.places.clear()

    # What happens is written down first.

    def do(
        self,
        expected: Sequence[Expected],
        work: Callable[[], object],
        *,
        never: Sequence[Expected] = (),
        is_undone: bool = False,
        by_itself: bool = False,
    ) -> None:
        """Carry `work` out in a transaction; `by_itself` says that it is one without our block."""
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

    def place(self) -> Place:
        """Return a place of an owner at random, so that all have about the same to do."""
        owner = self.dice.choice(list(User.objects.filter(username__startswith="u").order_by("id")))
        if owner.id not in self.places:
            project = Project(id=self.id(), owner=owner, name=f"Site {self.word()}")
            session = Session(id=self.id(), project=project, owner=owner, title="Long")
            place = Place(owner, project, session, project.name)
            self.do([self.project(place)], lambda: project.save(force_insert=True))
            self.do([self.step(place, session, "started")], lambda: session.save(force_insert=True))
            self.places[owner.id] = place
        return self.places[owner.id]

    def id(self) -> UUID:
        return UUID(int=self.dice.getrandbits(128), version=4)

    def word(self) -> str:
        return f"{self.dice.getrandbits(64):x}"

    # What is expected.

    def project(self, place: Place, event: str = "created") -> Expected:
        data: dict[str, Any] = {"id": str(place.project.id), "name": place.name}
        if event == "updated":
            data |= {"description": place.project.description, "archived": False}
        return Expected(f"project.{event}", str(place.owner.id), data)

    def step(self, place: Place, session: Any, step: str) -> Expected:
        data = {"id": str(session.id), "projectId": str(place.project.id)}
        data |= {"projectName": place.name}
        return Expected(f"session.{step}", str(place.owner.id), data)

    def said(self, place: Place, message: Any) -> Expected:
        data = {name: getattr(message, name) for name in ("sender", "content")}
        data |= {"id": str(message.id), "sessionId": str(place.session.id)}
        data |= {"projectId": str(place.project.id)}
        return Expected("session.message", str(place.owner.id), data)

    def message(self, place: Place) -> Any:
        content = self.dice.choice(["Zoë 🚀 ", "x", '{"a": 1.0}']) * self.dice.randint(1, 200)
        return SessionMessage(id=self.id(), session=place.session, sender="agent", content=content)
