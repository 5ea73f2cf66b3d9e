"""Proof of endpoint: a receiver shows that its owner wants our requests by answering a challenge.

`WEBHOOKS_ENDPOINT_PROOF` says what becomes of webhooks without it: nothing (`off`), a warning
(`advise`), or that they stay switched off (`require`). A proof holds for a server: a change of
scheme, host or port ends it.
"""

import hmac
import secrets
from dataclasses import dataclass

from django.db import transaction
from requests import Response

from webhooks.errors import WebhookNotSendingError
from webhooks.models import Webhook
from webhooks.registry import switch
from webhooks.wire.failures import TransportError
from webhooks.workbench.single import SingleRequest

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
    data = {"webhookId": webhook.public_id, "challenge": challenge}
    try:
        request = SingleRequest(webhook.pk, CHALLENGE_TYPE, data, may_be_inactive=True)
        proof = _judge(request.send(MAX_SECONDS), challenge)
    except WebhookNotSendingError:
        proof = Proof(False, None, CHANGED)
    except TransportError as problem:
        proof = Proof(False, None, str(problem))
    if proof.verified and not _note(webhook, request.endpoint.url):
        proof = Proof(False, proof.response_code, CHANGED)
    webhook.refresh_from_db()
    return proof


def _note(webhook: Webhook, url: str) -> bool:
    """Note the proof of the URL that was asked; False where it has changed meanwhile."""
    with transaction.atomic():
        rows = Webhook.objects.filter(pk=webhook.pk, url=url, deleted_at=None)
        if not rows.update(verified=True):
            return False
        webhook.refresh_from_db()
        if not webhook.active and webhook.disabled_reason == switch.UNPROVED:
            switch.enable(webhook, send="all")
    return True


def _judge(answer: Response, challenge: str) -> Proof:
    status = answer.status_code
    if not 200 <= status < 300:
        return Proof(False, status, REFUSED.format(status=status))
    echoed = answer.content[:MAX_ANSWER_BYTES].strip()
    is_echo = hmac.compare_digest(echoed, challenge.encode())
    return Proof(is_echo, status, "" if is_echo else NOT_ECHOED)
