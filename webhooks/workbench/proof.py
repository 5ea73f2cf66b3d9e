"""Proof of endpoint: a receiver shows that its owner wants our requests by answering a challenge.

`WEBHOOKS_ENDPOINT_PROOF` says what becomes of webhooks without it: nothing (`off`), a warning
(`advise`), or that they stay switched off (`require`). A proof holds for a server: a change of
scheme, host or port ends it.
"""

import hmac
import json
import secrets
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone
from requests import Response

from webhooks import catalog
from webhooks.ids import EVENT_PREFIX, new_id
from webhooks.models import Pause, Webhook
from webhooks.registry import switch
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.failures import TransportError, WithdrawnError
from webhooks.wire.messages import Draft, Post, header_line
from webhooks.wire.request import build_request
from webhooks.wire.signing import SigningKey, load_key

CHALLENGE_TYPE = "webhook.challenge"
MAX_SECONDS = 10
MAX_ANSWER_BYTES = 1024

NOT_ECHOED = (
    "The answer is not the challenge: answer 2xx with the value of data.challenge as the body, and "
    "nothing else."
)
CHANGED = "The webhook was changed, deleted or paused meanwhile; try again."
REFUSED = "The receiver answered {status}; a proof is a 2xx with the challenge as its body."


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of a challenge."""

    verified: bool
    response_code: int | None
    error: str
    """Why it is no proof; empty where it is one."""


def prove(webhook: Webhook) -> Proof:
    """Send a signed challenge and note whether it came back (`webhook.verified`).

    A webhook that is switched off for want of a proof is switched on. Blocks for 10 s at most; call
    it outside of transactions.
    """
    challenge = secrets.token_urlsafe(32)
    url = webhook.url
    proof = _judge(_ask(webhook.pk, url, challenge), challenge)
    with transaction.atomic():
        # Of the URL that was asked, and none that it has changed to meanwhile.
        rows = Webhook.objects.filter(pk=webhook.pk, url=url, deleted_at=None)
        if proof.verified and not rows.update(verified=True):
            proof = Proof(False, proof.response_code, CHANGED)
        webhook.refresh_from_db()
        if proof.verified and not webhook.active and webhook.disabled_reason == switch.UNPROVED:
            switch.enable(webhook, send="all")
    return proof


def _judge(answer: Response | str, challenge: str) -> Proof:
    if isinstance(answer, str):
        return Proof(False, None, answer)
    status = answer.status_code
    if not 200 <= status < 300:
        return Proof(False, status, REFUSED.format(status=status))
    echoed = answer.content[:MAX_ANSWER_BYTES].strip()
    is_echo = hmac.compare_digest(echoed, challenge.encode())
    return Proof(is_echo, status, "" if is_echo else NOT_ECHOED)


def _ask(webhook_id: UUID, url: str, challenge: str) -> Response | str:
    """Return the answer, or why there is none."""
    # Here, so that web processes load libcurl with their first request only.
    from webhooks.wire.one import CurlAdapter

    def find() -> Webhook | None:
        gone = get_user_model().objects.filter(is_active=False).values("pk")
        rows = Webhook.objects.filter(pk=webhook_id, url=url, deleted_at=None)
        found = rows.exclude(owner__in=gone).first()
        return None if Pause.objects.exists() else found

    def build() -> Post | None:
        webhook = find()
        return None if webhook is None else _sign(webhook, challenge)

    adapter = CurlAdapter(AddressPolicy(settings.WEBHOOKS_ALLOWED_NETWORKS))
    try:
        return adapter.send(Draft(url, build, lambda: find() is not None), timeout=MAX_SECONDS)
    except WithdrawnError:
        return CHANGED
    except TransportError as problem:
        return str(problem)


def _sign(webhook: Webhook, challenge: str) -> Post | None:
    now = timezone.now()
    keys = [load_key(secret.value) for secret in webhook.secrets.live(now).order_by("scheme")]
    if not keys or not isinstance(keys[0], SigningKey):
        return None
    event_id = new_id()
    envelope = {
        "id": EVENT_PREFIX + event_id.hex,
        "type": CHALLENGE_TYPE,
        "created": catalog.wire_time(now),
        "data": {"webhookId": webhook.public_id, "challenge": challenge},
    }
    return build_request(
        url=webhook.url,
        header_lines=tuple(header_line(name, value) for name, value in webhook.headers.items()),
        key=keys[0],
        keys=keys,
        event_id=event_id,
        event_type=CHALLENGE_TYPE,
        payload=json.dumps(envelope, separators=(",", ":")).encode(),
        delivery_id=new_id(),
        attempt=1,
        timestamp=int(now.timestamp()),
    )
