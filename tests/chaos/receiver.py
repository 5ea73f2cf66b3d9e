"""The receiver of a chaos run: misbehaves by plan and writes down all that came.

`python -m tests.chaos.receiver SEED LEDGER`: prints its URL. Each line of the ledger is one request
that came whole, as JSON, with the body's SHA-256 and whether it was answered well.
What it answers depends on the seed, the delivery and the attempt only; from the fourth attempt on it
behaves well.
"""

import hashlib
import json
import random
import sys
import threading
from pathlib import Path

from webhooks.http_receiver import Behaviour, HttpReceiver, Received

GOOD = Behaviour()
FAULTS = [
    Behaviour(status=500),
    Behaviour(status=503),
    Behaviour(status=404),
    Behaviour(mode="reset"),
    Behaviour(mode="close"),
    Behaviour(mode="garbage"),
    Behaviour(mode="hang"),
    Behaviour(mode="drip"),
    Behaviour(delay_seconds=0.8),
]
FAULTY_SHARE = 0.15
FAULTY_SHARE_ORDERED = 0.02
"""Each fault of an ordered webhook holds back everything behind it for seconds."""
BEHAVES_FROM_ATTEMPT = 4


def plan(seed: int, path: str, delivery_id: str, attempt: int) -> Behaviour:
    """Return how this attempt is answered."""
    dice = random.Random(f"{seed} {delivery_id} {attempt}")
    share = FAULTY_SHARE_ORDERED if "ordered" in path else FAULTY_SHARE
    if attempt >= BEHAVES_FROM_ATTEMPT or dice.random() >= share:
        return GOOD
    return dice.choice(FAULTS)


class LedgerReceiver(HttpReceiver):
    """Chooses by plan instead of by script."""

    def __init__(self, seed: int, ledger: Path) -> None:
        super().__init__(on_request=self._note)
        self._seed = seed
        self._ledger = ledger.open("a", buffering=1)

    def _next_behaviour(self, path: str, headers: dict[str, str]) -> Behaviour:
        attempt = int(headers.get("x-webhook-attempt", BEHAVES_FROM_ATTEMPT))
        return plan(self._seed, path, headers.get("x-webhook-delivery", ""), attempt)

    def _note(self, received: Received) -> None:
        digest = hashlib.sha256(received.body).hexdigest()
        behaviour = self._next_behaviour(received.path, received.headers)
        entry = {
            "at": received.received_at,
            "path": received.path,
            "event": received.event_id,
            "delivery": received.delivery_id,
            "attempt": int(received.attempt),
            "sha256": digest,
            "good": behaviour.mode == "answer" and 200 <= behaviour.status < 300,
            "timestamp": received.headers["webhook-timestamp"],
            "standard": received.headers["webhook-signature"],
            "hex": received.headers["x-webhook-signature"],
        }
        self._ledger.write(json.dumps(entry) + "\n")
        self._requests.clear()


def main() -> None:
    with LedgerReceiver(int(sys.argv[1]), Path(sys.argv[2])) as receiver:
        print(receiver.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
