"""Another service, which triggers events by HTTP: `python -m tests.chaos.client SEED URL TOKEN FILE OWNER …`.

Asks again with the same idempotency key until it is answered; the web process and all under it may
go away meanwhile. Each line of FILE is what was acknowledged, as JSON: the key and the event's id.
"""

import json
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import django
import requests

MOST_PER_SECOND = 10
TIMEOUT_SECONDS = 10
ASK_AGAIN_SECONDS = 0.3


def main() -> None:
    django.setup()
    from webhooks import catalog

    seed, url, token, path, *owners = sys.argv[1:]
    dice = random.Random(int(seed))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    data = catalog.get_type("payment.succeeded").example
    number = 0
    with Path(path).open("a", buffering=1) as acknowledged:
        while not stop.wait(1 / MOST_PER_SECOND):
            number += 1
            wish = {
                "type": "payment.succeeded",
                "userId": dice.choice(owners),
                "data": data,
                "idempotencyKey": f"{seed}-{number}",
            }
            event_id = ask_until_answered(session, f"{url}/api/v1/events", wish, stop)
            if event_id:
                line = {"key": wish["idempotencyKey"], "event": event_id}
                acknowledged.write(json.dumps(line) + "\n")


def ask_until_answered(
    session: requests.Session, url: str, wish: dict[str, Any], stop: threading.Event
) -> str | None:
    """Return the id of the event, or None when told to stop first."""
    while not stop.is_set():
        try:
            response = session.post(url, json=wish, timeout=TIMEOUT_SECONDS)
        except requests.RequestException:
            stop.wait(ASK_AGAIN_SECONDS)
            continue
        if response.status_code == 201:
            return str(response.json()["id"])
        if response.status_code < 500 and response.status_code != 429:
            sys.exit(f"Refused with {response.status_code}: {response.text}")
        stop.wait(ASK_AGAIN_SECONDS)
    return None


if __name__ == "__main__":
    main()
