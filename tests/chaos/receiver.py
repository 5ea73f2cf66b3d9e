"""The receiver of a chaos run: misbehaves by plan and writes down all that came.

`python -m tests.chaos.receiver SEED LEDGER`: prints its URL. It listens on two addresses with one
port, since its name moves between them. Each line of the ledger is one request that came whole, as
JSON, with the body's SHA-256 and whether it was answered well; a body stands in the first line that
has it. What it answers depends on the seed, the delivery and the attempt only; from the fourth attempt
on it behaves well.
"""

import hashlib
import json
import random
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from webhooks.workbench.receiver import Behaviour, HttpReceiver, Received

ADDRESSES = ("127.0.0.1", "127.0.0.2")
GOOD = Behaviour()
SLOW = Behaviour(delay_seconds=15)
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
    if "slow" in path:
        return SLOW
    share = FAULTY_SHARE_ORDERED if "ordered" in path else FAULTY_SHARE
    if attempt >= BEHAVES_FROM_ATTEMPT or dice.random() >= share:
        return GOOD
    return dice.choice(FAULTS)


class Ledger:
    """The file; several receivers write to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()
        self._known: set[str] = set()

    def write(self, address: str, received: Received, behaviour: Behaviour) -> None:
        digest = hashlib.sha256(received.body).hexdigest()
        entry = {
            "at": received.received_at,
            "to": address,
            "path": urlsplit(received.path).path,
            "event": received.event_id,
            "type": received.event_type,
            "delivery": received.delivery_id,
            "attempt": int(received.attempt or 0),
            "sha256": digest,
            "good": behaviour.mode == "answer" and 200 <= behaviour.status < 300,
            "timestamp": received.headers.get("webhook-timestamp", ""),
            "standard": received.headers.get("webhook-signature", ""),
            "hex": received.headers.get("x-webhook-signature", ""),
        }
        with self._lock:
            if digest not in self._known:
                self._known.add(digest)
                entry["body"] = received.body.decode(errors="replace")
            self._file.write(json.dumps(entry) + "\n")


class LedgerReceiver(HttpReceiver):
    """Chooses by plan instead of by script."""

    def __init__(self, seed: int, ledger: Ledger, *, host: str, port: int = 0) -> None:
        super().__init__(host=host, port=port, on_request=self._note, keep=0)
        self._seed = seed
        self._ledger = ledger
        self._address = host

    def _next_behaviour(self, path: str, headers: dict[str, str]) -> Behaviour:
        attempt = int(headers.get("x-webhook-attempt", BEHAVES_FROM_ATTEMPT))
        return plan(self._seed, path, headers.get("x-webhook-delivery", ""), attempt)

    def _note(self, received: Received) -> None:
        behaviour = self._next_behaviour(received.path, received.headers)
        self._ledger.write(self._address, received, behaviour)


def main() -> None:
    seed, ledger = int(sys.argv[1]), Ledger(Path(sys.argv[2]))
    with (
        LedgerReceiver(seed, ledger, host=ADDRESSES[0]) as first,
        LedgerReceiver(seed, ledger, host=ADDRESSES[1], port=first.port),
    ):
        print(first.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
