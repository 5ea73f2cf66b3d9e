"""People change webhooks while they are sent to."""

import time
from contextlib import suppress
from datetime import timedelta
from itertools import count
from urllib.parse import urljoin

from django.db import Error

from tests.chaos.faults import Fault, Kind, Stage
from tests.chaos.kinds.servers import CLOCK_STEPS
from tests.chaos.recipients import RETRIES, Recipient, Secret, Span
from webhooks import service
from webhooks.errors import WebhookNotSendingError
from webhooks.models import Webhook
from webhooks.wire.signing import generate_secret

OVERLAPS = (timedelta(0), timedelta(seconds=5), timedelta(hours=24))
"""How long a secret that was replaced goes on signing."""

_numbers = count(1)


def switch_webhook_off_and_on(stage: Stage, _: Fault) -> None:
    recipient = stage.world.recipient()
    webhook = _webhook(recipient)
    off = Span(time.time(), float("inf"))
    recipient.off.append(off)
    # Another fault may have disabled it.
    with suppress(WebhookNotSendingError):
        service.disable(webhook, "chaos")
    off.ended_at = time.time()
    time.sleep(stage.dice.uniform(0.5, 6))
    on = Span(time.time(), float("inf"))
    recipient.off.append(on)
    while on.ended_at == float("inf"):
        with suppress(Error):
            # An error may hide a commit.
            with suppress(WebhookNotSendingError):
                service.enable(webhook, send="all")
            on.ended_at = time.time()


def rotate_secret(stage: Stage, _: Fault) -> None:
    recipient = stage.world.recipient()
    before, fresh = recipient.secrets[-1], Secret(generate_secret())
    overlap = stage.dice.choice(OVERLAPS)
    # Known before it can be used: an error may hide a commit.
    recipient.secrets.append(fresh)
    service.rotate_secret(_webhook(recipient), overlap=overlap, secret=fresh.text)
    fresh.newest_from = time.time()
    before.dead_from = time.time() + overlap.total_seconds()
    if overlap:
        # The database's clock says when it is over.
        before.dead_from += 2 * max(CLOCK_STEPS)


def edit_url(stage: Stage, _: Fault) -> None:
    webhook = _webhook(stage.world.recipient())
    service.update_webhook(webhook, url=f"{webhook.url.partition('?')[0]}?{time.time_ns()}")


def delete_webhook(stage: Stage, _: Fault) -> None:
    """Make a webhook, let something go to it, and delete it."""
    like = stage.dice.choice([r for r in stage.world.recipients if r.owner])
    path, patterns = f"/gone/{next(_numbers)}", ["*"]
    created = Span(time.time(), float("inf"))
    webhook = service.create_webhook(
        like.owner,
        name="short-lived",
        url=urljoin(like.webhook.url, path),
        events=patterns,
        retry_schedule=RETRIES,
        timeout_seconds=like.webhook.timeout_seconds,
    )
    created.ended_at = time.time()
    recipient = Recipient(
        path, like.owner, patterns, "none", created, [Secret(webhook.secret, 0.0)], webhook
    )
    recipient.deleted = Span(float("inf"), float("inf"))
    stage.world.recipients.append(recipient)
    time.sleep(stage.dice.uniform(0.2, 2))
    recipient.deleted.began_at = time.time()
    while recipient.deleted.ended_at == float("inf"):
        with suppress(Error):
            service.delete_webhook(webhook)
            recipient.deleted.ended_at = time.time()


def _webhook(recipient: Recipient) -> Webhook:
    return Webhook.objects.get(id=recipient.webhook.id)


KINDS = [
    Kind(2, switch_webhook_off_and_on),
    Kind(2, rotate_secret),
    Kind(1, edit_url),
    Kind(1, delete_webhook),
]
