"""Another service, which triggers events by HTTP: `python -m tests.chaos.client SEED URL TOKEN CAUSES OWNER …`.

Writes down what it asks for, and asks again with the same idempotency key until it is answered; the
web process and all under it may go away meanwhile.
"""

import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import django
import requests

from tests.chaos.causes import Causes, Expected

MOST_PER_SECOND = 8
TIMEOUT_SECONDS = 10
ASK_AGAIN_SECONDS = 0.3
ASKED_TWICE_SHARE = 0.1
TYPES = ("payment.succeeded", "payment.failed", "subscription.cancelled")


def main() -> None:
    django.setup()
    from webhooks import catalog

    seed, url, token, path, *owners = sys.argv[1:]
    dice = random.Random(int(seed))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    causes = Causes(Path(path))
    while not stop.wait(1 / MOST_PER_SECOND):
        name, owner, key = dice.choice(TYPES), dice.choice(owners), f"{dice.getrandbits(64):x}"
        data = {**catalog.get_type(name).example, "id": key}
        wish = {"type": name, "userId": owner, "data": data, "idempotencyKey": key}
        with causes.cause([Expected(name, owner, data)]) as outcomes:
            # Now and then as though the first answer had been lost on its way.
            times = 2 if dice.random() < ASKED_TWICE_SHARE else 1
            for _ in range(times):
                if ask_until_answered(session, f"{url}/api/v1/events", wish, stop):
                    outcomes.append("committed")


def ask_until_answered(
    session: requests.Session, url: str, wish: dict[str, Any], stop: threading.Event
) -> bool:
    """Return whether the event is stored; False when told to stop before that is known."""
    while not stop.is_set():
        try:
            response = session.post(url, json=wish, timeout=TIMEOUT_SECONDS)
        except requests.RequestException:
            stop.wait(ASK_AGAIN_SECONDS)
            continue
        if response.status_code == 201:
            return True
        if response.status_code < 500 and response.status_code != 429:
            sys.exit(f"Refused with {response.status_code}: {response.text}")
        stop.wait(ASK_AGAIN_SECONDS)
    return False


if __name__ == "__main__":
    main()
