"""What is wrong with a request by itself: its signature, its contents, its recipient."""

import base64
import hashlib
import hmac
import json
from collections import defaultdict
from typing import Any

from tests.chaos.causes import Key, key_of
from tests.chaos.evidence import Evidence, Place, Request, is_off
from tests.chaos.recipients import Recipient

GRACE_SECONDS = 3.0
"""How long after a webhook was switched off, deleted or given a new secret a request may still arrive
as before: what is handed over within a second has to arrive, too."""
CLOCK_SECONDS = 5.0
"""How far a timestamp may be from the arrival; with a stepped clock, STEPPED_SECONDS."""
STEPPED_SECONDS = 30.0
NOTHING = object()


class EachRequest:
    """Looks at every request of the ledger."""

    def __init__(self, evidence: Evidence, broken: defaultdict[str, list[str]]) -> None:
        self.known: list[tuple[Request, Recipient, Place]] = []
        """The requests that somebody caused."""
        self.event_of: dict[Key, str] = {}
        """The id and the hash of what each event was announced with first."""
        self._evidence = evidence
        self._broken = broken
        for request in evidence.requests:
            self._check(request)

    def _check(self, request: Request) -> None:
        body = self._evidence.bodies[request.sha256]
        envelope = json.loads(body)
        key = key_of(envelope["type"], envelope["data"])
        recipient = self._evidence.recipients.get(request.path)
        place = self._evidence.places.get(key)
        if recipient is None:
            self._broken["wrong recipient"].append(f"{request.path} is nobody's")
            return
        self._check_signature(request, recipient, body)
        if (envelope["id"], envelope["type"]) != (request.event, request.type):
            self._broken["headers and body differ"].append(request.event)
        if place is None:
            is_undone = key in self._evidence.undone
            name = "sent though rolled back" if is_undone else "sent without a cause"
            self._broken[name].append(f"{request.event} {key}")
            return
        self._check_event(request, recipient, place, envelope)
        self.known.append((request, recipient, place))

    def _check_event(
        self, request: Request, recipient: Recipient, place: Place, envelope: dict[str, Any]
    ) -> None:
        _, _, expected = place
        differs = {k: envelope["data"].get(k) for k, v in expected.data.items()
                   if envelope["data"].get(k, NOTHING) != v}  # fmt: skip
        if differs:
            self._broken["data differ"].append(f"{request.event}: {differs}")
        first = self.event_of.setdefault(place.key, f"{request.event} {request.sha256}")
        if first != f"{request.event} {request.sha256}":
            self._broken["announced in two versions"].append(f"{place.key}: {request.event}")
        if not recipient.wants(expected.type, expected.owner):
            self._broken["wrong recipient"].append(f"{request.event} at {request.path}")
        elif is_off(recipient, place.cause.began_at, place.cause.over_at):
            self._broken["sent to a webhook that was off"].append(request.delivery)
        if is_off(recipient, request.at - GRACE_SECONDS, request.at):
            self._broken["sent while off"].append(f"{request.delivery} at {request.path}")

    def _check_signature(self, request: Request, recipient: Recipient, body: bytes) -> None:
        known_at = request.at - GRACE_SECONDS
        secrets = recipient.secrets
        fit = [s.newest_from for s in secrets if _is_signed(request, s.text, body)]
        newest = max(s.newest_from for s in secrets if s.newest_from <= known_at)
        if not fit or max(fit) < newest:
            self._broken["signature does not fit"].append(f"{request.delivery} at {request.path}")
        given = request.standard.split()
        if any(
            s.dead_from < known_at and _standard(request, s.text, body) in given for s in secrets
        ):
            self._broken["signed with a dead secret"].append(
                f"{request.delivery} at {request.path}"
            )
        off_by = abs(float(request.timestamp or 0) - request.at)
        if off_by > (STEPPED_SECONDS if self._is_stepped(request.at) else CLOCK_SECONDS):
            self._broken["timestamp is off"].append(f"{request.delivery} by {off_by:.0f} s")

    def _is_stepped(self, at: float) -> bool:
        return any(
            fault.started_at - 1 <= at <= fault.lasts_until + STEPPED_SECONDS
            for fault in self._evidence.faults
            if fault.kind == "step_database_clock"
        )


# Both signatures by themselves, without the product's code.


def _is_signed(request: Request, secret: str, body: bytes) -> bool:
    content = request.timestamp.encode() + b"." + body
    is_hex = request.hex == _mac(secret.encode(), content).hex()
    return is_hex and _standard(request, secret, body) in request.standard.split()


def _standard(request: Request, secret: str, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = b".".join([request.event.encode(), request.timestamp.encode(), body])
    return "v1," + base64.b64encode(_mac(key, content)).decode()


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()
