"""Proof of endpoint: a receiver shows that its owner wants our requests by answering a challenge.

`WEBHOOKS_ENDPOINT_PROOF` says what becomes of webhooks without it: nothing (`off`), a warning
(`advise`), or that they stay switched off (`require`). A proof holds for a server: a change of
scheme, host or port ends it.

A new webhook, and one that moved to another server, gets a challenge by itself: a chore sends what
is due. Each challenge has a thread, because a receiver may take ten seconds; one owner has one at a
time. Whoever gives no proof is asked again after growing pauses, and then no more.
"""

import hmac
import logging
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from requests import Response

from webhooks.dispatch.desk import with_fresh_connection
from webhooks.dispatch.endpoints import with_owners
from webhooks.dispatch.single import SingleRequest
from webhooks.errors import WebhookNotSendingError
from webhooks.models import Webhook
from webhooks.models.owner_keys import NO_OWNER
from webhooks.postgres.sql import run
from webhooks.registry import switch
from webhooks.wire.failures import TransportError

logger = logging.getLogger(__name__)

CHALLENGE_TYPE = "webhook.challenge"
MAX_SECONDS = 10
MAX_ANSWER_BYTES = 1024
PAUSES_SECONDS = (10, 60, 600, 3600)
"""Before each further challenge of a receiver that gave no proof; after the last, nobody asks again."""
LEASE = timedelta(minutes=1)
"""If the sender of a challenge died, another one sends it after this time."""
MAX_CONCURRENT = 8
TURN_SECONDS = 2.0
"""How long send_due() waits for its challenges; slower ones continue during the next calls."""

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
    if proof.error and proof.error != CHANGED:
        asked = Webhook.objects.filter(pk=webhook.pk, url=request.endpoint.url, verified=False)
        asked.update(proof_error=proof.error[:500])
    webhook.refresh_from_db()
    return proof


def _note(webhook: Webhook, url: str) -> bool:
    """Note the proof of the URL that was asked; False where it has changed meanwhile."""
    with transaction.atomic():
        rows = Webhook.objects.filter(pk=webhook.pk, url=url, deleted_at=None)
        if not rows.update(verified=True, proof_due_at=None, proof_failures=0, proof_error=""):
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


# Not while all sending is paused, and not for inactive owners or webhooks that a person disabled
# (invariant 12): these wait, and cost no try.
CLAIM_SQL = """
UPDATE webhooks_webhook
   SET proof_due_at = clock_timestamp() + make_interval(secs => %(lease)s)
 WHERE id = ANY(ARRAY(
    SELECT w.id FROM webhooks_webhook w
     WHERE w.id = ANY(ARRAY(
        SELECT DISTINCT ON (owner_id) id FROM webhooks_webhook due
         WHERE due.proof_due_at <= statement_timestamp() AND due.deleted_at IS NULL
           AND (due.active OR due.disabled_reason = %(unproved)s)
           AND coalesce(due.owner_id, %(nobody)s) <> ALL(%(busy)s::{owner_type}[])
           AND NOT EXISTS (SELECT FROM webhooks_pause)
           AND NOT EXISTS (SELECT FROM {owners} u
                            WHERE u.{key} = due.owner_id AND {is_inactive})
         ORDER BY owner_id, proof_due_at))
       AND w.proof_due_at <= statement_timestamp()
     ORDER BY w.proof_due_at LIMIT %(count)s
       FOR NO KEY UPDATE SKIP LOCKED))
RETURNING id
"""

# The condition on proof_due_at protects a newer schedule: the webhook may have moved since. A locked
# row is left: its lease ends, and it is asked once more.
RECORD_SQL = """
UPDATE webhooks_webhook
   SET proof_failures = proof_failures + 1,
       proof_due_at = clock_timestamp()
           + make_interval(secs => (%(pauses)s::int[])[proof_failures + 1])
 WHERE id = ANY(ARRAY(
    SELECT id FROM webhooks_webhook WHERE id = %(webhook)s AND proof_due_at = %(taken)s
       FOR NO KEY UPDATE SKIP LOCKED))
"""


class Challenges:
    """Sends due challenges; safe to use in many workers at once."""

    def __init__(self) -> None:
        self._under_way: list[tuple[Webhook, threading.Thread]] = []

    @property
    def has_any_under_way(self) -> bool:
        return bool(self._under_way)

    def send_due(self) -> bool:
        """Send at most one due challenge per owner, and return whether there may be more."""
        self._collect(0.0)
        count = MAX_CONCURRENT - len(self._under_way)
        if not count:
            self._collect(TURN_SECONDS)
            return True
        parameters = {
            "lease": LEASE.total_seconds(),
            "unproved": switch.UNPROVED,
            "nobody": NO_OWNER,
            "busy": [webhook.owner_id or NO_OWNER for webhook, _ in self._under_way],
            "count": count,
        }
        claimed = [row[0] for row in run(with_owners(CLAIM_SQL), parameters)]
        for webhook in Webhook.objects.filter(id__in=claimed):
            thread = threading.Thread(
                target=_challenge, args=(webhook,), name="webhooks-challenge", daemon=True
            )
            thread.start()
            self._under_way.append((webhook, thread))
        self._collect(TURN_SECONDS)
        return bool(claimed)

    def _collect(self, timeout_seconds: float) -> None:
        ends_at = time.monotonic() + timeout_seconds
        for _, thread in self._under_way:
            thread.join(max(0.0, ends_at - time.monotonic()))
        self._under_way = [one for one in self._under_way if one[1].is_alive()]


def _challenge(webhook: Webhook) -> None:
    taken = webhook.proof_due_at
    try:
        with_fresh_connection("webhooks-challenge", _prove_or_put_off, webhook, taken)
    except Exception:
        # The lease ends, and another one asks.
        logger.exception("The challenge of webhook %s failed.", webhook.public_id)
    finally:
        connection.close()


def _prove_or_put_off(webhook: Webhook, taken: datetime) -> None:
    if not prove(webhook).verified:
        run(RECORD_SQL, {"webhook": webhook.pk, "taken": taken, "pauses": list(PAUSES_SECONDS)})


send_due = Challenges().send_due
"""Challenges.send_due() of this process."""
