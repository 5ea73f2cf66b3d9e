"""`manage.py listen`, run as a process."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from pytest_django.live_server_helper import LiveServer

from config.services import BASE_DIR
from projects.models import User
from tests.webhooks.history import trigger
from tests.webhooks.management.conftest import Run
from tests.workers import environment
from webhooks.models import ApiToken
from webhooks.outbox import feed
from webhooks.workbench.listen import signing_secret
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def listening(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "listen", "--no-color", *arguments],
        cwd=BASE_DIR,
        env=environment(WEBHOOKS_ALLOWED_NETWORKS="") | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def said(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def test_forwards_and_continues_by_cursor(user: User, other_user: User) -> None:
    secret = signing_secret(str(user.id))
    # From here on, so that nothing depends on when the process is ready.
    start = feed.read(None).next
    with HttpReceiver(secrets=[secret]) as receiver:
        url = receiver.url + "hook"
        to = ("--owner", "ada", "--forward-to", url, "--events", "project.*")
        with listening(*to, "--after", start) as process:
            assert said(process) == f"Ready! Your signing secret is {secret} (Ctrl-C to stop)\n"
            receiver.script(Behaviour(status=500))
            trigger(other_user)
            (first,) = trigger(user)
            sent, answered = lines(process, 2)
            process.send_signal(signal.SIGTERM)
            cursor = said(process).removeprefix("Stopped. Continue with --after ").strip()
            assert process.wait(10) == 0
        missed = trigger(user, 3)
        with listening(*to, "--after", cursor) as process:
            receiver.wait_for(4)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0

    assert sent[8:] == f"  --> project.deleted [{first.public_id}]\n"
    assert re.sub(r"\d+ ms", "? ms", answered[8:]) == (
        f"  <-- [500] POST {url} (? ms) [{first.public_id}]\n"
    )
    assert [received.event_id for received in receiver.requests] == [
        first.public_id, *[event.public_id for event in missed]
    ]  # fmt: skip
    assert all(received.standard_ok and received.hex_ok for received in receiver.requests)


def test_follows_a_server_through_its_api(
    user: User, other_user: User, live_server: LiveServer
) -> None:
    _, token = ApiToken.objects.issue(user, name="t", scopes=["read"], lifetime=timedelta(days=1))
    start = feed.read(None).next
    with HttpReceiver(secrets=[signing_secret(token)]) as receiver:
        to = ("--forward-to", receiver.url, "--events", "project.*", "--after", start)
        # A proxy that the environment names is not asked: it would read the token.
        variables = {"WEBHOOKS_TOKEN": token, "http_proxy": "http://127.0.0.1:9"}
        with listening("--server", live_server.url, *to, **variables) as process:
            said(process)
            trigger(other_user)
            events = trigger(user, 3)
            receiver.wait_for(3)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0

    assert [received.event_id for received in receiver.requests] == [
        event.public_id for event in events
    ]
    assert [received.body for received in receiver.requests] == [
        bytes(event.payload) for event in events
    ]
    assert all(received.standard_ok and received.hex_ok for received in receiver.requests)


def test_without_a_target_prints_bodies(user: User) -> None:
    start = feed.read(None).next
    with listening("--owner", str(user.id), "--after", start) as process:
        said(process)
        (event,) = trigger(user)
        (body,) = lines(process, 1)

    assert body == bytes(event.payload).decode() + "\n"


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ([], "Give either --owner, or --server and a token.", 2),
        (["--server", "https://x"], "Put the API token into --token-file or", 2),
        (["--server", "https://x", "--token-file", "/none"], "The token cannot be read", 2),
        (["--owner", "ada", "--token-file", "x"], "--token-file belongs to --server.", 2),
        (["--owner", "eve"], "The owner 'eve' does not exist: use an e-mail address or an id.", 1),
        (["--owner", "ada", "--after", "x!"], "This is not a valid feed cursor", 1),
        (["--owner", "ada", "--events", "nothing"], "'nothing' selects no event type", 1),
        (["--owner", "ada", "--forward-to", "notaurl"], "'notaurl' is not a URL such as", 1),
        (["--owner", "ada", "--forward-to", "ftp://x"], "'ftp://x' is not a URL such as", 1),
        (["--owner", "ada", "--forward-to", "x:99999"], "'http://x:99999' is not a URL such as", 1),
        (["--owner", "ada", "--forward-to", "[::1"], "'http://[::1' is not a URL such as", 1),
    ],
)
def test_wrong_usage(run: Run, user: User, arguments: list[str], message: str, code: int) -> None:
    ran = run("listen", *arguments)

    assert message in ran.err
    assert (ran.code, ran.out) == (code, "")


@pytest.mark.parametrize(
    ("server", "token", "message"),
    [
        ("https://[x", "t", "or to this machine. The URL has no valid host and port."),
        (
            "https://" + "x" * 64,
            "t",
            "or to this machine. The URL's host is not a valid name",
        ),
        ("http://x", "t", "The token only goes to https://"),
        ("https://x:99999", "t", "The URL's port is not a number from 1 to 65535."),
        ("https://", "t", "The URL must start with http:// or https:// and a host."),
        ("https://x", "t\nx: y", "The token holds a character that no token has."),
        ("https://x", "t\u017f", "The token holds a character that no token has."),
    ],
)
def test_invalid_calls_are_refused_in_a_line(
    run: Run, tmp_path: Path, server: str, token: str, message: str
) -> None:
    file = tmp_path / "token"
    file.write_text(token)

    ran = run("listen", "--server", server, "--token-file", str(file), "--print-secret")

    assert message in ran.err
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)


def test_print_secret(run: Run, user: User) -> None:
    ran = run("listen", "--owner", "ada", "--print-secret")

    assert (ran.out, ran.code) == (f"{signing_secret(str(user.id))}\n", 0)
