"""Events by HTTP, one web process: single POSTs beside a bare view with one insert, and batches."""

import http.client
import json
import threading
import time
from typing import Any

from benchmarks import harness
from benchmarks.harness import Goal, Series
from benchmarks.receiver import Receiver
from benchmarks.web import running_web
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
        with running_web({"wsgi": "benchmarks.bare_view:application"}, threads=CLIENTS) as web:
            bare.values.append(post(web.port, "/events", event, token))
        with running_web(threads=CLIENTS) as web:
            single.values.append(post(web.port, "/api/v1/events", event, token))
            batch = {"events": [event] * BATCH}
            batches.values.append(BATCH * post(web.port, "/api/v1/events/batch", batch, token))
    return harness.show(
        "Events by HTTP, one web process with four threads",
        [bare, single, batches],
        [
            Goal("POST /events / bare view", harness.ratio(single, bare), 0.6),
            Goal("events per second in batches", batches.median, 8000, form="{:,.0f}"),
        ],
    )


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
