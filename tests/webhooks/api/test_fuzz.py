"""A fuzzer that reads the description attacks the running server: no 5xx, nothing undescribed."""

import itertools
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponseBase

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session
from webhooks import service

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
    "unsupported_method,ignored_auth,use_after_free"
)
SHORT_SECONDS = 10
SEEDS = 20
FULL_SECONDS = 80
"""Of one round of a seed; all seeds together send twenty thousand requests for each role."""
MOST_BYTES = 64 * 1024
MOST_SECONDS = 0.3
"""Of processor time that one answer may take; and of bytes, if it is a refusal."""

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Served:
    """What the server in this process has answered, and at what cost."""

    count: int = 0
    most_bytes: int = 0
    """Of a refusal; a page of what the user has stored is as long as that."""
    most_seconds: float = 0.0
    """Of processor time."""
    dearest: str = ""

    def take(self, request: HttpRequest, response: HttpResponseBase, seconds: float) -> None:
        self.count += 1
        if response.status_code >= 400:
            self.most_bytes = max(self.most_bytes, len(getattr(response, "content", b"")))
        if seconds > self.most_seconds:
            self.most_seconds, self.dearest = seconds, f"{request.method} {request.path}"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    served = Served()
    real = WSGIHandler.get_response

    def get_response(handler: WSGIHandler, request: HttpRequest) -> Any:
        since = time.thread_time()
        response = real(handler, request)
        served.take(request, response, time.thread_time() - since)
        return response

    monkeypatch.setattr(WSGIHandler, "get_response", get_response)
    return served


@pytest.fixture
def target(
    request: pytest.FixtureRequest,
    live_server: Any,
    user: User,
    staff: User,
    make_token: Any,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, str]:
    """The server's URL and a token of somebody who has one of everything: by the parameter a
    service token, or that of a member of staff or of a user.
    """
    role = getattr(request, "param", "service")
    owner = user if role == "user" else staff
    # A line for each refused request, kept by pytest, would take longer than the request.
    monkeypatch.setattr(logging.getLogger("django.request"), "disabled", True)
    limits = dict.fromkeys(django_settings.WEBHOOKS_API_REQUESTS_PER_MINUTE, 10**9)
    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = limits
    # Invented webhooks are tested too: nothing is looked up and nothing leaves this machine.
    monkeypatch.setattr(socket, "getaddrinfo", _only_loopback)
    project = Project.objects.create(owner=owner, name="Website")
    session = Session.objects.create(owner=owner, project=project, title="Fix")
    Recording.objects.create(session=session, title="Screen")
    Agent.objects.create(owner=owner, name="Desktop", platform="linux", version="1")
    service.create_webhook(
        owner, name="Orders", url="http://127.0.0.1:9/", events=["*"], timeout_seconds=1
    )
    data = {"id": str(project.id), "name": "a", "deletedAt": "2026-11-23T10:30:00.123Z"}
    service.trigger_event("project.deleted", owner, data)
    return live_server.url, make_token(owner, is_service=role == "service")


real_getaddrinfo = socket.getaddrinfo


def _only_loopback(host: Any, *args: Any, **options: Any) -> Any:
    if host not in ("localhost", "127.0.0.1", None):
        raise socket.gaierror("no such host in a test")
    return real_getaddrinfo(host, *args, **options)


def fuzz(target: tuple[str, str], *options: str, with_keys: bool = False) -> None:
    """Run the fuzzer; `with_keys` lets it invent Idempotency-Keys, which it then uses for all."""
    url, token = target
    root = Path(django_settings.BASE_DIR)
    description = root / "var" / "fuzzed.yaml"
    text = (root / "docs" / "openapi.yaml").read_text()
    key = "      - $ref: '#/components/parameters/IdempotencyKey'\n"
    assert key in text
    if not with_keys:
        text = text.replace(f"      parameters:\n{key}", "").replace(key, "")
    description.write_text(text)
    finished = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
            "run",
            description,
            f"--url={url}",
            f"--header=Authorization: Bearer {token}",
            f"--checks={CHECKS}",
            # It would revoke the token that it uses.
            "--exclude-operation-id=revokeToken",
            "--continue-on-failure",
            "--warnings=off",
            "--no-color",
            *options,
        ],
        cwd=root / "var",
        env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(root / "var" / "hypothesis")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-20_000:] + finished.stderr[-5_000:]


@pytest.mark.slow
def test_fuzzer_finds_nothing_in_a_short_time(target: tuple[str, str], served: Served) -> None:
    # A slow machine needs more than one round for them.
    while served.count <= 100:
        fuzz(
            target,
            "--phases=examples,coverage,stateful",
            "--max-examples=2",
            "--no-shrink",
            f"--max-time={SHORT_SECONDS}",
        )


@pytest.mark.full
@pytest.mark.parametrize("target", ["user", "staff", "service"], indirect=True)
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_fuzzer_finds_nothing_in_twenty_thousand_requests(
    target: tuple[str, str], served: Served, seed: int
) -> None:
    seeds = itertools.count(seed, SEEDS)

    # A slow machine needs more than one round for its part of them.
    while served.count < 20_000 // SEEDS:
        options = f"--seed={next(seeds)}", f"--max-time={FULL_SECONDS}", "--max-examples=20"
        fuzz(target, *options, with_keys=seed % 3 == 0)
    assert served.most_bytes <= MOST_BYTES
    assert served.most_seconds <= MOST_SECONDS, served.dearest
