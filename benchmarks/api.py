"""Events by HTTP, one web process: single POSTs beside a bare view with one insert, and batches."""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import harness
from benchmarks.harness import Goal, Series
from benchmarks.receiver import Receiver
from config.embedded import die_with_parent
from config.services import BASE_DIR
from webhooks.models import ApiToken

SECONDS = 4.0
CLIENTS = 4
BATCH = 1000


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    bare = Series("bare view, one insert", "posts/s")
    single = Series("POST /events, one matching webhook", "posts/s")
    batches = Series("POST /events/batch of 1,000", "events/s")
    event = {"type": "session.message", "data": harness.message()}
    for _ in range(rounds):
        harness.empty_tables()
        (owner,) = harness.make_owners(1)
        harness.make_webhooks([owner], receiver.url)
        _, token = ApiToken.objects.issue(owner, name="bench", scopes=["trigger"], lifetime=None)
        with web_process("benchmarks.bare_view:application") as port:
            bare.values.append(post(port, "/events", event, token))
        with web_process("config.wsgi:application") as port:
            single.values.append(post(port, "/api/v1/events", event, token))
            batch = {"events": [event] * BATCH}
            batches.values.append(BATCH * post(port, "/api/v1/events/batch", batch, token))
    return harness.show(
        "Events by HTTP, one web process with four threads",
        [bare, single, batches],
        [
            Goal("POST /events / bare view", harness.ratio(single, bare), 0.6),
            Goal("events per second in batches", batches.median, 8000, form="{:,.0f}"),
        ],
    )


@contextmanager
def web_process(application: str) -> Iterator[int]:
    """Run one web process; the block gets its port."""
    port = harness.free_port()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "gunicorn", f"--bind=127.0.0.1:{port}", "--worker-class=gthread",
            "--workers=1", f"--threads={CLIENTS}", "--log-level=error", application,
        ],
        cwd=BASE_DIR,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
    )  # fmt: skip
    try:
        harness.wait_until(lambda: _answers(port), 30, application)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def post(port: int, path: str, body: Any, token: str) -> float:
    """Return how many requests per second a web process answers, asked by four clients at once."""
    content = json.dumps(body)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    counts: list[int] = []
    end = time.monotonic() + SECONDS

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        count = 0
        while time.monotonic() < end:
            connection.request("POST", path, content, headers)
            response = connection.getresponse()
            answer = response.read()
            assert response.status in (200, 201), answer
            count += 1
        counts.append(count)

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    started_at = time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(counts) == CLIENTS
    return sum(counts) / (time.monotonic() - started_at)
