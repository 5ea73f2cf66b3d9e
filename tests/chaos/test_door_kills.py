"""The door of events, killed under load: web process, Postgres, connections.

Every 201 is stored, exactly once, and a client without a response finds its event by its key.
"""

import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import psutil
import pytest
from django.db import connection

from config import embedded, serve
from config.services import BASE_DIR
from projects.models import User
from tests import clusters
from tests.clusters import Cluster, connected_to
from tests.workers import environment, free_port, wait_until
from webhooks.models import ApiToken, Delivery, Event, Webhook

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

CLIENTS = 8
NAME = "door"
POSTS_BETWEEN = 20
"""How many requests succeed between two kills."""


@dataclass
class Client:
    """Posts single events, each with a key of its own, and repeats those without a response."""

    number: int
    port: int
    token: str
    ids: dict[str, set[str]] = field(default_factory=dict)
    """By key: the ids that responses named."""
    without_answer: int = 0
    refusals: list[bytes] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    ends_at: float = float("inf")
    """By the monotonic clock."""

    def stop(self) -> None:
        """Begin no new event, and have the last one answered within half a minute."""
        self.ends_at = time.monotonic() + 30
        self.stopping.set()

    def is_over(self) -> bool:
        return time.monotonic() > self.ends_at

    def run(self) -> None:
        while not (self.stopping.is_set() or self.refusals):
            key = f"{self.number}-{len(self.ids)}"
            self.ids[key] = set()
            while not (self.ids[key] or self.refusals or self.is_over()):
                self._post(key)

    def _post(self, key: str) -> None:
        post = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        body = {"type": "project.deleted", "data": DATA, "idempotencyKey": key}
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            post.request("POST", "/api/v1/events", json.dumps(body), headers)
            response = post.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            self.without_answer += 1
            time.sleep(0.05)
            return
        finally:
            post.close()
        if response.status == 201:
            self.ids[key].add(json.loads(answer)["id"])
            return
        if response.status < 500:
            self.refusals.append(answer)
        self.without_answer += 1
        time.sleep(0.05)


DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "A project",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}


class House:
    """A Postgres of its own and a web process, which can be killed and come again."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.home = stack.enter_context(clusters.folder())
        self.port = free_port()
        clusters.initialise(self.home)
        self.cluster = self._start_postgres()
        with clusters.dump() as file:
            clusters.restore(file, self.cluster, NAME)
        stack.enter_context(connected_to(self.cluster, NAME))
        self._web = self._start_web()
        stack.callback(self._kill_web)

    def _start_postgres(self) -> Cluster:
        return self._stack.enter_context(clusters.running(self.home, {}))

    def _start_web(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            serve.command(self.port, processes=1, threads=CLIENTS),
            cwd=BASE_DIR,
            env=environment(WEBHOOKS_API_REQUESTS_PER_MINUTE="1000000"),
            start_new_session=True,
            preexec_fn=lambda: embedded.die_with_parent(signal.SIGKILL),
        )

    def _kill_web(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._web.pid, signal.SIGKILL)
        self._web.wait()

    def kill_web(self) -> None:
        self._kill_web()
        self._web = self._start_web()

    def kill_postgres(self) -> None:
        pid = int((self.home / "pgdata" / "postmaster.pid").read_text().splitlines()[0])
        server = psutil.Process(pid)
        family = [*server.children(recursive=True), server]
        for one in reversed(family):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        # A new server refuses to start while old ones hold its memory or its process id.
        psutil.wait_procs(family, timeout=30)
        self._start_postgres()

    def kill_connections(self) -> None:
        with self.cluster.connect() as maintenance:
            maintenance.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND pid <> pg_backend_pid()",
                [NAME],
            )


KILLS: dict[str, Callable[[House], None]] = {
    "web": House.kill_web,
    "postgres": House.kill_postgres,
    "connections": House.kill_connections,
}


@pytest.fixture
def house(db: None) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack)


@pytest.mark.parametrize(
    "times", [pytest.param(2, id="twice"), pytest.param(20, marks=pytest.mark.full, id="twenty")]
)
@pytest.mark.parametrize("kind", KILLS)
def test_each_201_is_stored_once_and_found_by_its_key(
    kind: str, times: int, house: House, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"])
    _, token = ApiToken.objects.issue(user, name="t", scopes=["trigger"], lifetime=None)
    clients = [Client(number, house.port, token) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()

    def answered() -> int:
        assert not [client.refusals for client in clients if client.refusals]
        return sum(bool(ids) for client in clients for ids in list(client.ids.values()))

    try:
        for wanted in range(POSTS_BETWEEN, POSTS_BETWEEN * (times + 1), POSTS_BETWEEN):
            wait_until(lambda wanted=wanted: answered() >= wanted)  # type: ignore[misc]
            KILLS[kind](house)
        wait_until(lambda: answered() >= (times + 1) * POSTS_BETWEEN)
    finally:
        for client in clients:
            client.stop()
        for thread in threads:
            thread.join()

    connection.close()  # it was killed with the others
    told = {key: ids for client in clients for key, ids in client.ids.items()}
    stored = dict(Event.objects.filter(type="project.deleted").values_list("idempotency_key", "id"))
    # A lost connection alone is mended by the door itself.
    if kind != "connections":
        assert sum(client.without_answer for client in clients) > 0, "No kill met a request."
    assert {key: {f"evt_{stored[key].hex}"} for key in told} == told
    assert stored.keys() == told.keys()
    assert Counter(Delivery.objects.values_list("event_id", flat=True)) == Counter(stored.values())
