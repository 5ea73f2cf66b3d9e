"""What web processes and operators see of cells."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError
from django.http import HttpResponse
from django.test import Client, RequestFactory

from cells import middleware
from cells.cellmap import CellMap, change_map
from cells.slots import mark_of, slot_of
from config.embedded import die_with_parent
from config.services import BASE_DIR
from projects.models import User
from tests.cells.world import CELLS, STREAMS, World
from tests.workers import answers, free_port, wait_until
from webhooks.models import ApiToken

TOKEN = """
import sys
from webhooks import service
from webhooks.models import ApiToken
from projects.models import User
user = User.objects.get(username=sys.stdin.read().strip())
token, text = ApiToken.objects.issue(user, name="t", scopes=["read"], lifetime=None)
print(text, service.create_portal_link(user).key)
"""


def manage(world: World, place: str, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env=world.environment(place),
        input=text,
        text=True,
        stdout=subprocess.PIPE,
        check=False,
    )
    return done.stdout


@contextmanager
def serving(world: World, place: str) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "config.serve", "--port", str(port), "--processes", "1"],
        cwd=BASE_DIR,
        env=world.environment(place),
        preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )
    try:
        wait_until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def get(url: str, token: str = "", session: str = "") -> tuple[int, Message, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    headers |= {"Cookie": f"{settings.SESSION_COOKIE_NAME}={session}"} if session else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers, answer.read()


def test_a_cell_answers_for_its_own_owners_only(world: World) -> None:
    world.add_owner("ada", slot=5)
    bob = world.add_owner("bob", slot=200)
    with world.inside("a"):
        world.consume("a", 0)
    of_ada, _ = manage(world, "a", "shell", "-v", "0", "-c", TOKEN, text="ada").split()
    of_bob, link_of_bob = manage(world, "a", "shell", "-v", "0", "-c", TOKEN, text="bob").split()
    assert of_bob.startswith(f"rdai_{mark_of(bob)}")

    with serving(world, "a") as site:
        assert get(f"{site}/api/v1/webhooks", of_ada)[0] == 200
        status, headers, body = get(f"{site}/api/v1/webhooks?limit=1", of_bob)
        assert (status, json.loads(body)["cell"]) == (421, "https://b.example.com")
        assert json.loads(body)["requestId"] == headers["X-Request-Id"]
        assert headers["Location"] == "https://b.example.com/api/v1/webhooks?limit=1"
        status, headers, _ = get(f"{site}/portal/open/{link_of_bob}/")
        assert (status, headers["Location"][:21]) == (421, "https://b.example.com")
        assert get(f"{site}/api/v1/webhooks", "rdai_unmarked")[0] == 401


def test_nobody_changes_what_is_being_moved(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    world.consume("a", 0)
    marked, _ = manage(world, "a", "shell", "-v", "0", "-c", TOKEN, text="ada").split()
    with world.inside("a"):
        user = User.objects.get(pk=ada)
        # As tokens were before there were cells.
        _, unmarked = ApiToken.objects.issue(user, name="old", scopes=["read"], lifetime=None)
        browser = Client()
        browser.force_login(user)
        session = browser.cookies[settings.SESSION_COOKIE_NAME].value

    with serving(world, "a") as site:
        url = f"{site}/api/v1/webhooks"
        assert get(url, unmarked)[0] == get(url, marked)[0] == 200
        change_map(world.log, lambda found: found.begin_move(5, "b"))
        world.consume("a", 0)

        wait_until(lambda: get(url, marked)[0] == 503)
        status, headers, _ = get(url, session=session)
        assert (status, headers["Retry-After"]) == (503, "5")
        assert get(url, unmarked)[0] == 401


def test_operators_see_the_map_the_lag_and_refusals(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    world.trigger(ada, 4)
    assert "to be published" not in manage(world, "producer", "cells")
    world.relay()
    world.trigger(ada, 2)
    assert "to be published from here: 2" in manage(world, "producer", "cells")
    world.consume("a", 4)
    headers = {"Nats-Msg-Id": "evt_1", "Owner": str(ada)}
    world.log._wait(world.log._js.publish("events.0.5.billing", b"{", headers=headers))

    assert "stream 0   at 5  0/s  1 behind" in manage(world, "a", "cells")
    world.consume("a", 0)
    shown = manage(world, "a", "cells")
    found = json.loads(manage(world, "a", "doctor", "--format", "json"))["findings"]
    routes = manage(world, "a", "cells", "routes").splitlines()

    assert "  a             128 slots  https://a.example.com (this one)" in shown
    assert "stream 0   at 5  0/s  0 behind" in shown
    assert "refused messages: 1" in shown
    (finding,) = [one for one in found if one["check"] == "cells"]
    assert finding["level"] == "warning"
    assert (
        "Messages that no cell could store: 1, the latest: evt_1: Expecting" in finding["message"]
    )
    assert (routes[5], routes[200]) == ('"05" a;', '"c8" b;')


def test_what_the_log_dropped_is_told_though_nothing_was_stored_before(world: World) -> None:
    ada = world.add_owner("ada", slot=5)
    world.trigger(ada, 4)
    world.relay()

    # No consumer has run yet.
    assert "stream 0   at 4  0/s  4 behind" in manage(world, "a", "cells")
    world.log._wait(world.log._js.purge_stream("EVENTS-0", keep=1))
    (finding,) = [
        one
        for one in json.loads(manage(world, "a", "doctor", "--format", "json"))["findings"]
        if one["check"] == "cells"
    ]
    assert finding["level"] == "failure"
    assert "dropped messages that this cell has not stored, in 0." in finding["message"]


@pytest.mark.parametrize(
    ("path", "script", "authorization"),
    [
        ("/api/v1/webhooks", "", "Bearer  rdai_sc8-x"),
        ("/api/v1/webhooks", "", "bearer\trdai_sc8-x"),
        ("/portal/open/sc8-x/", "/hooks", ""),
        ("/portal/in/sc8-x", "", ""),
    ],
)
def test_a_request_for_another_cell_is_known_however_it_is_written(
    monkeypatch: pytest.MonkeyPatch, path: str, script: str, authorization: str
) -> None:
    map_ = CellMap.of(STREAMS, CELLS)
    monkeypatch.setattr(middleware, "stored_map", lambda: map_)
    asked = RequestFactory().get(path, HTTP_AUTHORIZATION=authorization, SCRIPT_NAME=script)

    answer = middleware.CellMiddleware(lambda _: HttpResponse())(asked)

    assert answer.status_code == 421
    assert answer["Location"] == f"https://b.example.com{script}{path}"


@pytest.mark.django_db
@pytest.mark.parametrize("token", ["rdai_s05-x", "rdai_unmarked"])
def test_without_postgres_a_cell_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, settings: Any, token: str
) -> None:
    def fail() -> None:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(middleware, "stored_map", fail)
    settings.MIDDLEWARE = ["cells.middleware.CellMiddleware", *settings.MIDDLEWARE]
    headers = {"Authorization": f"Bearer {token}"}

    answer = Client(raise_request_exception=False).get("/api/v1/webhooks", headers=headers)

    assert (answer.status_code, answer.json()["status"]) == (503, 503)


ALONE = """
import sys, django
django.setup()
import config.urls, webhooks.management.commands.webhooks_worker
print(sorted(name for name in sys.modules if name.split(".")[0] in ("cells", "nats")))
"""


def test_a_single_deployment_imports_nothing_of_cells() -> None:
    environment: dict[str, Any] = os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings"}
    printed = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=BASE_DIR, env=environment, text=True, check=True,
        stdout=subprocess.PIPE,
    ).stdout  # fmt: skip

    assert printed.strip() == "[]"


@pytest.mark.parametrize(
    ("owner", "slot"),
    [("0193570e-2c7a-7bcd-8f0a-1b2c3d4e5f60", 56), (None, 227), (7, 121)],
)
def test_other_languages_find_the_same_slot(owner: str | int | None, slot: int) -> None:
    assert slot_of(owner) == slot
