"""`manage.py receiver --save` and `--replay`."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pytest
import requests

from config.services import BASE_DIR
from tests.webhooks.management.conftest import Run
from webhooks.outbox.feed import FeedEvent
from webhooks.workbench import recorded
from webhooks.workbench.listen import Forwarder, signing_secret
from webhooks.workbench.receiver import HttpReceiver

SECRET = signing_secret("receiver")
TEXT = '{"data":{"webhookId":"whk_1","message":"ä"}}'


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved request that was signed with SECRET."""
    event = FeedEvent(f"evt_{7:032x}", "webhook.test", datetime.now(UTC), TEXT.encode())
    with HttpReceiver() as receiver:
        Forwarder(receiver.url + "hook", SECRET).send(event)
    return recorded.save(receiver.requests[0], tmp_path, 1)


def test_saved_request_can_be_read_and_verified(run: Run, saved: Path) -> None:
    stored = json.loads(saved.read_text())

    ran = run("receiver", "--replay", saved, "--secret", SECRET)

    assert saved.name == f"000001-evt_{7:032x}.json"
    assert (stored["path"], stored["status"], stored["text"]) == ("/hook", 200, TEXT)
    assert ran.out[8:] == (f"  webhook.test  evt_{7:032x}  attempt 1  200  v1 ok, hex ok\n")
    assert (ran.code, ran.err) == (0, "")


def test_other_secret_does_not_fit(run: Run, saved: Path) -> None:
    ran = run("receiver", "--replay", saved, "--secret", signing_secret("other"))

    why = "BAD (wrong secret, or a changed body)"
    assert ran.out.endswith(f"v1 {why}, hex {why}\n")
    assert ran.code == 3


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"webhook-timestamp": "1"}, "v1 BAD (stale: "),
        ({"webhook-timestamp": "9999999999"}, " s in the future), hex ok"),
        ({"webhook-timestamp": "soon"}, "v1 BAD (webhook-timestamp is no Unix time), hex ok"),
        ({"x-webhook-signature": None}, "v1 ok, hex BAD (no header x-webhook-signature)"),
        ({"body": "bm8="}, "hex BAD (wrong secret, or a changed body), not JSON"),
    ],
)
def test_verdict_says_which_check_failed(
    run: Run, saved: Path, changes: dict[str, str | None], verdict: str
) -> None:
    stored = json.loads(saved.read_text())
    stored["body"] = changes.get("body", stored["body"])
    lost = {name.lower() for name in changes}
    kept = [pair for pair in stored["headers"] if pair[0].lower() not in lost]
    stored["headers"] = [
        *kept,
        *([name, text] for name, text in changes.items() if text and name != "body"),
    ]
    saved.write_text(json.dumps(stored))

    ran = run("receiver", "--replay", saved, "--secret", SECRET)

    assert verdict in ran.out
    assert ran.code == 3


def test_without_a_secret_nothing_is_verified(run: Run, saved: Path) -> None:
    ran = run("receiver", "--replay", saved)

    assert ran.out.endswith("not verified (no --secret)\n")
    assert ran.code == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"headers": 1}'])
def test_other_file_is_refused(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)

    ran = run("receiver", "--replay", path)

    assert ran.err == f"{path} is not a request saved by manage.py receiver --save.\n"
    assert ran.code == 1


def test_missing_file_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "none"

    ran = run("receiver", "--replay", path)

    assert ran.err == f"{path} cannot be read: No such file or directory.\n"
    assert ran.code == 1


def test_folder_that_cannot_be_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ran = run("receiver", "--port", 0, "--save", tmp_path / "file")

    assert ran.err == f"Cannot save to {tmp_path / 'file'}: File exists.\n"
    assert (ran.code, ran.out) == (1, "")


def test_host_with_too_long_a_label_is_refused(run: Run) -> None:
    ran = run("receiver", "--host", "x" * 300, "--port", 0)

    assert ran.err.startswith(f"Cannot listen on {'x' * 300}:0: ")
    assert ran.err.endswith(" Choose another --host or --port.\n")
    assert (ran.code, ran.out) == (1, "")


@contextmanager
def receiving(*options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the command; yields its process and its URL."""
    with subprocess.Popen(
        [sys.executable, "manage.py", "receiver", "--port", "0", *options],
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()[2]
        finally:
            process.kill()


def test_receiver_ends_once_nobody_reads_its_lines() -> None:
    with receiving() as (process, url):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        requests.post(url, data=b"{}", timeout=5)
        assert process.wait(10) == 141
        assert process.stderr.read() == ""


def test_receiver_ends_once_it_cannot_save(tmp_path: Path) -> None:
    with receiving("--save", str(tmp_path / "gone")) as (process, url):
        (tmp_path / "gone").rmdir()
        requests.post(url, data=b"{}", timeout=5)
        _, said = process.communicate(timeout=10)
    assert said == f"CommandError: Cannot save to {tmp_path / 'gone'}: No such file or directory.\n"
    assert process.returncode == 1


def test_request_is_shown_and_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    class Watched(HttpReceiver):
        def __enter__(self) -> Self:
            server = super().__enter__()
            for _ in range(3):
                requests.post(self.url, data=b"{}", timeout=5)
            kept.append(len(self.requests))
            signal.raise_signal(signal.SIGTERM)
            return server

    monkeypatch.setattr("webhooks.management.commands.receiver.HttpReceiver", Watched)

    ran = run("receiver", "--port", 0)

    assert kept == [0]
    assert len(ran.out.splitlines()) == 4
    assert ran.code == 0


def test_name_of_a_saved_request_is_harmless(tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        requests.post(receiver.url, headers={"webhook-id": "../../etc/x"}, timeout=5)

    assert recorded.save(receiver.requests[0], tmp_path, 2).name == "000002-etcx.json"


def test_saves_requests_and_continues_the_numbering(saved: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "receiver", "--port", "0", "--save", str(saved.parent)],
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[2]
        requests.post(url, data=b"{}", timeout=5)
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()

    names = sorted(path.name for path in saved.parent.glob("*.json"))
    assert names == [saved.name, "000002-unknown.json"]
