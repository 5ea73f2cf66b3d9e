"""Mails to owners whose webhook was disabled by itself.

Each mail is taken, sent and recorded by itself: one that is refused is tried again after growing
pauses and then given up, and none waits for another's recipient. A mail server that lets nobody in is
no fault of the mails: it fails the chore (webhooks/repair/chores.py), and they stay due, until they are too
old to be of use. A crash here leaves taken mails behind, which are due again when their lease runs out.
"""

import logging
import threading
import time
from datetime import timedelta
from smtplib import SMTPDataError, SMTPRecipientsRefused

from django.core.mail import EmailMultiAlternatives, get_connection
from django.db.models import F, Window
from django.db.models.functions import Now, RowNumber
from django.template.loader import render_to_string

from webhooks.models import Webhook
from webhooks.postgres.sql import run
from webhooks.repair.chores import in_one_line

logger = logging.getLogger(__name__)

LEASE = timedelta(minutes=5)
"""How long a sender may take; a mail whose sender died goes out after that."""
AT_ONCE = 8
"""Mails on their way at a time, each on a connection of its own."""
TURN_SECONDS = 2.0
"""How long a turn waits for its mails; slower ones are on their way during the next turns."""
LOOKED_AT = 1_000
"""Owners that are due, of whom a turn takes the first whose rows are free."""
FIRST_PAUSE_SECONDS = 300
LONGEST_PAUSE_SECONDS = 43_200
MOST_TRIES = 10
"""In about a day and a half."""
WAIT_FOR_SERVER = timedelta(days=3)
"""How long after the disabling a mail is kept while its server lets nobody in."""
PERMANENT = 500
"""SMTP replies from here on say that another try is of no use."""


class Mail:
    """One mail on its way, on a daemon thread of its own: it has no part in the database."""

    def __init__(self, webhook: Webhook) -> None:
        self.webhook = webhook
        self.problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="webhooks-mail", daemon=True)
        self._thread.start()

    def is_done(self, timeout_seconds: float) -> bool:
        """Say whether it was sent or refused, and wait for that for so long."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            send(self.webhook)
        except Exception as problem:
            # The failure becomes the row's.
            self.problem = problem


class Mailroom:
    """Sends what is due, in turns. Any number of workers may do so at once."""

    def __init__(self) -> None:
        self._under_way: list[Mail] = []

    def send_due(self) -> bool:
        """Send one mail of each owner to whom one is due; returns whether there may be more.

        Raises what the mail server's refusal of the connection raises; the mails stay due.
        """
        self._collect(0.0)
        taken = self._take(AT_ONCE - len(self._under_way))
        self._under_way += [Mail(webhook) for webhook in taken]
        self._collect(TURN_SECONDS)
        return bool(taken)

    def _take(self, count: int) -> list[Webhook]:
        due = Webhook.objects.filter(notice_due_at__lte=Now())
        if not count or not due.exists():
            return []
        _reach_server()
        place = Window(RowNumber(), partition_by=F("owner_id"), order_by="notice_due_at")
        busy = {mail.webhook.owner_id for mail in self._under_way}
        first = due.exclude(owner_id__in=busy).annotate(place=place).filter(place=1)
        ids = list(first.order_by("notice_due_at").values_list("id", flat=True)[:LOOKED_AT])
        parameters = {"ids": ids, "count": count, "lease": LEASE.total_seconds()}
        taken = [row[0] for row in run(TAKE_SQL, parameters)]
        return list(Webhook.objects.select_related("owner").filter(id__in=taken))

    def _collect(self, timeout_seconds: float) -> None:
        """Record the mails that are done; those whose row is locked are recorded later."""
        ends_at = time.monotonic() + timeout_seconds
        self._under_way = [
            mail
            for mail in self._under_way
            if not mail.is_done(max(0.0, ends_at - time.monotonic())) or not _record(mail)
        ]


def _reach_server() -> None:
    """Raise what keeps all mails from being tried, and give up those that waited too long for it."""
    try:
        with get_connection():
            pass
    except Exception as problem:
        parameters = {
            "kept": WAIT_FOR_SERVER.total_seconds(),
            "count": LOOKED_AT,
            "error": in_one_line(problem),
        }
        if count := run(GIVE_UP_SQL, parameters).rowcount:
            logger.warning("Mails given up for want of a mail server: %d.", count)
        raise


# Rows that somebody has locked are passed over.
GIVE_UP_SQL = """
UPDATE webhooks_webhook SET notice_due_at = NULL, notice_error = %(error)s
 WHERE id = ANY(ARRAY(
    SELECT id FROM webhooks_webhook
     WHERE notice_due_at <= statement_timestamp()
       AND disabled_at < statement_timestamp() - make_interval(secs => %(kept)s)
     ORDER BY id LIMIT %(count)s
       FOR NO KEY UPDATE SKIP LOCKED))
"""

TAKE_SQL = """
UPDATE webhooks_webhook
   SET notice_due_at = clock_timestamp() + make_interval(secs => %(lease)s)
 WHERE id = ANY(ARRAY(
    SELECT w.id
      FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS p (id, position)
      JOIN webhooks_webhook w USING (id)
     WHERE w.notice_due_at <= statement_timestamp()
     ORDER BY p.position LIMIT %(count)s
       FOR NO KEY UPDATE OF w SKIP LOCKED))
RETURNING id
"""

# Only while the notice is still the one that was taken: the webhook may have been enabled since.
RECORD_SQL = """
UPDATE webhooks_webhook
   SET notice_due_at = clock_timestamp() + make_interval(secs => %(pause)s),
       notice_failures = %(failures)s, notice_error = %(error)s
 WHERE id = ANY(ARRAY(
    SELECT id FROM webhooks_webhook WHERE id = %(webhook)s AND notice_due_at = %(taken)s
       FOR NO KEY UPDATE SKIP LOCKED))
"""


def _record(mail: Mail) -> bool:
    """Write what became of a mail; False where its row is locked."""
    webhook, problem = mail.webhook, mail.problem
    failures = webhook.notice_failures + 1 if problem else 0
    is_given_up = failures >= MOST_TRIES or _is_permanent(problem)
    pause = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
    parameters = {
        "webhook": webhook.id,
        "taken": webhook.notice_due_at,
        "pause": None if problem is None or is_given_up else pause,
        "failures": failures,
        "error": in_one_line(problem) if problem else "",
    }
    if run(RECORD_SQL, parameters).rowcount:
        if problem:
            logger.warning(
                "The mail about webhook %s could not be sent%s: %s",
                webhook.public_id,
                " and is given up" if is_given_up else "",
                parameters["error"],
            )
        return True
    return not Webhook.objects.filter(id=webhook.id, notice_due_at=webhook.notice_due_at).exists()


def _is_permanent(problem: Exception | None) -> bool:
    if isinstance(problem, SMTPRecipientsRefused):
        return all(code >= PERMANENT for code, _ in problem.recipients.values())
    return isinstance(problem, SMTPDataError) and problem.smtp_code >= PERMANENT


def send(webhook: Webhook) -> None:
    """Send the mail about a webhook; raises whatever the mail backend raises."""
    address = getattr(webhook.owner, "email", "")
    if not address:
        return
    context = {"webhook": webhook}
    mail = EmailMultiAlternatives(
        # A line break in a name must not add headers.
        f"Your webhook {' '.join(webhook.name.split())} was disabled",
        render_to_string("webhooks/disabled.txt", context),
        to=[address],
    )
    mail.attach_alternative(render_to_string("webhooks/disabled.html", context), "text/html")
    mail.send()


send_due = Mailroom().send_due
"""Of this process's own mailroom."""
