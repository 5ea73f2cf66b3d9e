"""Mails to owners whose webhook was disabled by itself."""

import logging
from datetime import timedelta

from django.core.mail import EmailMultiAlternatives
from django.db.models.functions import Now
from django.template.loader import render_to_string

from webhooks.models import Webhook

logger = logging.getLogger(__name__)

LEASE = timedelta(minutes=5)
"""How long a sender may take; a mail whose sender died goes out after that."""
AT_ONCE = 20


def send_due() -> None:
    """Send the mails that are due. Any number of workers may do so at once."""
    due = Webhook.objects.filter(notice_due_at__lte=Now())
    for webhook_id in due.values_list("id", flat=True)[:AT_ONCE]:
        taken = Webhook.objects.filter(id=webhook_id, notice_due_at__lte=Now()).update(
            notice_due_at=Now() + LEASE
        )
        if taken:
            _send(Webhook.objects.select_related("owner").get(id=webhook_id))


def _send(webhook: Webhook) -> None:
    address = getattr(webhook.owner, "email", "")
    if address:
        context = {"webhook": webhook}
        mail = EmailMultiAlternatives(
            # A line break in a name must not add headers.
            f"Your webhook {' '.join(webhook.name.split())} was disabled",
            render_to_string("webhooks/disabled.txt", context),
            to=[address],
        )
        mail.attach_alternative(render_to_string("webhooks/disabled.html", context), "text/html")
        try:
            mail.send()
        except OSError:
            # The mail server is away; the lease runs out and another try follows.
            logger.exception("The mail about webhook %s could not be sent.", webhook.public_id)
            return
    Webhook.objects.filter(id=webhook.id).update(notice_due_at=None)
