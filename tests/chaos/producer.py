"""A product under load: `python -m tests.chaos.producer SEED`.

Writes models in every way until it is told to stop, some of it in transactions that roll back.
Postgres may go away under it; it then starts the next thing. What is committed, Postgres knows.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import django

MOST_PER_SECOND = 25
ROLLED_BACK = "rolled back"
"""In the content of every message whose transaction is rolled back on purpose."""
SHORT_LIVED = "Short-lived"


def main() -> None:
    django.setup()
    from django.db import Error, close_old_connections, connection

    is_stopping = False

    def stop(*_: Any) -> None:
        nonlocal is_stopping
        is_stopping = True

    signal.signal(signal.SIGTERM, stop)
    product = Product(random.Random(int(sys.argv[1])))
    while not is_stopping:
        close_old_connections()
        try:
            product.do_something()
        except Error:
            if "CHAOS_WRITES_MUST_SUCCEED" in os.environ:
                raise
            connection.close()
        time.sleep(1 / MOST_PER_SECOND)


class GoneError(Exception):
    """Rolls a transaction back."""


class Product:
    """The things that happen in RemoteDevAI, at random."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._actions: list[tuple[int, Callable[[], None]]] = [
            (40, self._post),
            (10, self._post_many),
            (10, self._roll_back),
            (5, self._roll_back_a_part),
            (8, self._live_session),
            (5, self._agent),
            (4, self._rename_all),
            (2, self._delete_project),
        ]

    def do_something(self) -> None:
        weights, actions = zip(*self._actions, strict=True)
        self._dice.choices(actions, weights)[0]()

    def _session(self) -> Any:
        """Return a session of an owner at random, so that all have about the same to do."""
        from projects.models import User
        from sessions_app.models import Session

        owner = self._dice.choice(list(User.objects.filter(username__startswith="u")))
        # The other producer may be deleting a short-lived one, which would be nobody's fault.
        sessions = Session.objects.filter(owner=owner).exclude(title=SHORT_LIVED)
        sessions = sessions.select_related("project", "owner")
        return self._dice.choice(list(sessions.order_by("-id")[:5]))

    def _post(self) -> None:
        from sessions_app.models import SessionMessage

        SessionMessage.objects.create(
            session=self._session(), sender="agent", content="x" * self._dice.randint(1, 2000)
        )

    def _post_many(self) -> None:
        from sessions_app.models import SessionMessage

        session = self._session()
        SessionMessage.objects.bulk_create(
            SessionMessage(session=session, sender="bulk", content="Zoë 🚀")
            for _ in range(self._dice.randint(2, 10))
        )

    def _roll_back(self) -> None:
        from django.db import transaction

        from sessions_app.models import SessionMessage

        try:
            with transaction.atomic():
                SessionMessage.objects.create(
                    session=self._session(), sender="agent", content=ROLLED_BACK
                )
                raise GoneError
        except GoneError:
            return

    def _roll_back_a_part(self) -> None:
        from django.db import transaction

        with transaction.atomic():
            self._post()
            self._roll_back()
            self._post()

    def _live_session(self) -> None:
        from sessions_app.models import Session

        project = self._session().project
        session = Session.objects.create(project=project, owner=project.owner, title="Live")
        session.pause()
        session.resume()
        session.end()

    def _agent(self) -> None:
        from sessions_app.models import Agent

        agent = Agent.objects.create(
            owner=self._session().owner, name="desktop", platform="linux", version="2.4.1"
        )
        agent.connect()
        agent.disconnect("chaos")

    def _rename_all(self) -> None:
        from projects.models import Project

        owner = self._session().owner
        Project.objects.filter(owner=owner).update(description=str(self._dice.random()))

    def _delete_project(self) -> None:
        from projects.models import Project
        from sessions_app.models import Session

        session = self._session()
        project = Project.objects.create(owner=session.owner, name=SHORT_LIVED)
        Session.objects.create(project=project, owner=session.owner, title=SHORT_LIVED)
        project.delete()


if __name__ == "__main__":
    main()
