"""The test inbox: try a webhook without a server of one's own.

Its URL leads to this site, over the same HTTP as every delivery; webhooks/wire/url_rules.py lets
exactly this path through. A request is stored and answered, and causes nothing else, so no loop
can begin here. After an hour the inbox answers 410, which disables the webhooks that still have its
URL.
"""

import json
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from webhooks.ids import mark_of
from webhooks.models import Inbox, InboxRequest, SigningSecret, Webhook
from webhooks.models.owners import is_owner_served
from webhooks.postgres.sql import run
from webhooks.repair.proof import CHALLENGE_TYPE
from webhooks.wire.signing import verify_standard
from webhooks.wire.url_rules import INBOX_TOKEN, INBOX_TOKEN_CHARACTERS

LIFE = timedelta(hours=1)
MAX_REQUESTS = 100
"""The requests that an inbox keeps, the latest."""
MAX_BODY_BYTES = 64 * 1024
MAX_HEAD_CHARACTERS = 16 * 1024

# Ids are time-ordered. Requests of the same moment may each delete the same row.
TRIM_SQL = """
DELETE FROM webhooks_inboxrequest
 WHERE id IN (SELECT id FROM webhooks_inboxrequest WHERE inbox_id = %(inbox)s
               ORDER BY id DESC OFFSET %(kept)s)
"""


def open_inbox(owner_id: Any) -> Inbox:
    """Open an owner's inbox for an hour, empty and with a new URL; an earlier one ends."""
    with transaction.atomic():
        Inbox.objects.filter(owner_id=owner_id).delete()
        # As long as its column, with or without a mark.
        token = (mark_of(owner_id) + secrets.token_urlsafe(32))[:INBOX_TOKEN_CHARACTERS]
        return Inbox.objects.create(owner_id=owner_id, token=token, ends_at=timezone.now() + LIFE)


def inbox_of(owner_id: Any) -> Inbox | None:
    """Return an owner's inbox; None if none is open."""
    return Inbox.objects.filter(owner_id=owner_id, ends_at__gt=Now()).first()


def find_inbox(token: str) -> Inbox | None:
    """Return the inbox at a URL; None if none is open there, or its owner is not active."""
    if not INBOX_TOKEN.fullmatch(token):
        # Postgres cannot even look for some texts.
        return None
    found = Inbox.objects.select_related("owner").filter(token=token, ends_at__gt=Now()).first()
    return found if found is not None and is_owner_served(found.owner) else None


def keep(inbox: Inbox, headers: Mapping[str, str], body: bytes) -> None:
    """Store a request, and forget the oldest one if there are too many. Header names are lower-case.

    Raises IntegrityError, when its transaction ends, if the inbox was deleted meanwhile.
    """
    head = "\n".join(f"{name}: {value}" for name, value in headers.items())
    InboxRequest.objects.create(
        inbox=inbox,
        head=head[:MAX_HEAD_CHARACTERS].replace("\0", "\ufffd"),
        body=body[:MAX_BODY_BYTES],
        size=len(body),
        event_type=headers.get("x-webhook-event", "")[:100].replace("\0", "\ufffd"),
        signed_for_id=_signed_for(inbox, headers, body),
    )
    run(TRIM_SQL, {"inbox": inbox.pk, "kept": MAX_REQUESTS})


@sensitive_variables()
def _signed_for(inbox: Inbox, headers: Mapping[str, str], body: bytes) -> UUID | None:
    """Return the owner's webhook with this inbox's URL whose secret signed a request."""
    now = timezone.now()
    ids = Webhook.objects.for_owner(inbox.owner_id).filter(url__endswith=f"/{inbox.token}")
    live = SigningSecret.objects.filter(webhook__in=ids, scheme=SigningSecret.Scheme.HMAC).live(now)
    for secret in live:
        value = secret.readable_value
        if value and verify_standard(value, headers, body, now=now.timestamp()):
            return secret.webhook_id
    return None


def answer_to(headers: Mapping[str, str], body: bytes) -> str:
    """Return the body of the answer: the challenge to a challenge, so that the webhook is verified."""
    if headers.get("x-webhook-event") != CHALLENGE_TYPE:
        return "ok"
    try:
        challenge = str(json.loads(body)["data"]["challenge"])[:100]
        # No answer can hold half of a character.
        challenge.encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return "ok"
    return challenge
