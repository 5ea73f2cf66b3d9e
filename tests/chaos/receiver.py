"""The receiver of a chaos run: misbehaves by plan and writes down all that came.

`python -m tests.chaos.receiver SEED LEDGER CERTIFICATES`: prints its port. It speaks TLS on two
addresses with one port, since its name moves between them. Each line of the ledger is one request that
came whole, as JSON, with the body's SHA-256 and whether it was answered well; a body stands in the
first line that has it. What it answers depends on the seed, the delivery and the attempt only; from the
fourth attempt on it behaves well.
"""

import hashlib
import json
import os
import random
import ssl
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from webhooks.workbench.receiver import Behaviour, HttpReceiver, Received

HOST = "receiver.chaos.test"
ADDRESSES = tuple(os.environ.get("CHAOS_ADDRESSES", "127.0.0.1,127.0.0.2").split(","))
GOOD = Behaviour()
SLOW = Behaviour(delay_seconds=15)
QUICK_FAULTS = [
    Behaviour(status=500),
    Behaviour(status=503),
    Behaviour(status=404),
    Behaviour(mode="reset"),
    Behaviour(mode="close"),
    Behaviour(mode="garbage"),
    Behaviour(delay_seconds=0.8),
]
FAULTS = [
    *QUICK_FAULTS,
    Behaviour(mode="hang"),
    # Headers that no timeout waits for: nothing counts as received that was not meant.
    Behaviour(mode="drip", headers=(("X-Drip", "." * 300),)),
]
FAULTY_SHARE = 0.15
FAULTY_SHARE_ORDERED = 0.02
"""Each fault of an ordered webhook holds back everything behind it; none of them hangs."""
BEHAVES_FROM_ATTEMPT = 4


def plan(seed: int, path: str, delivery_id: str, attempt: int) -> Behaviour:
    """Return how this attempt is answered."""
    dice = random.Random(f"{seed} {delivery_id} {attempt}")
    if "slow" in path:
        return SLOW
    is_ordered = "ordered" in path
    share = FAULTY_SHARE_ORDERED if is_ordered else FAULTY_SHARE
    if attempt >= BEHAVES_FROM_ATTEMPT or dice.random() >= share:
        return GOOD
    return dice.choice(QUICK_FAULTS if is_ordered else FAULTS)


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

    def __init__(
        self, seed: int, ledger: Ledger, *, tls: ssl.SSLContext, host: str, port: int = 0
    ) -> None:
        super().__init__(host=host, port=port, tls=tls, on_request=self._note, keep=0)
        self._seed = seed
        self._ledger = ledger
        self._address = host

    def _next_behaviour(self, path: str, headers: dict[str, str]) -> Behaviour:
        attempt = int(headers.get("x-webhook-attempt", BEHAVES_FROM_ATTEMPT))
        return plan(self._seed, path, headers.get("x-webhook-delivery", ""), attempt)

    def _note(self, received: Received) -> None:
        behaviour = self._next_behaviour(received.path, received.headers)
        self._ledger.write(self._address, received, behaviour)


def server_context(folder: Path) -> ssl.SSLContext:
    """Return a context with the certificate of the address, and that of the name for who asks by it."""
    by_address, by_name = (_context(folder / f"{host}.pem") for host in (ADDRESSES[0], HOST))

    def choose(connection: ssl.SSLObject, name: str | None, _: object) -> None:
        if name == HOST:
            connection.context = by_name

    by_address.sni_callback = choose
    return by_address


def _context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def main() -> None:
    seed, ledger, tls = (
        int(sys.argv[1]),
        Ledger(Path(sys.argv[2])),
        server_context(Path(sys.argv[3])),
    )
    with (
        LedgerReceiver(seed, ledger, tls=tls, host=ADDRESSES[0]) as first,
        LedgerReceiver(seed, ledger, tls=tls, host=ADDRESSES[1], port=first.port),
    ):
        print(first.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
