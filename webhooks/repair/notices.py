"""Mails to owners whose webhook was disabled automatically.

Each mail is claimed, sent and recorded separately, so that none waits for another's recipient. A
refused mail is tried again after growing pauses and then given up. If the mail server is
unavailable, the chore fails (webhooks/repair/chores.py) and the mails stay due until they are too old
to be useful. After a crash, claimed mails are due again when their lease expires.
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
"""The time limit of a sender; if it died, another one sends the mail after this time."""
MAX_CONCURRENT_MAILS = 8
"""How many mails are sent at a time, each on its own connection."""
TURN_SECONDS = 2.0
"""How long send_due() waits for its mails; slower ones continue during the next calls."""
MAX_DUE_OWNERS = 1_000
"""How many due owners a call considers; it takes the first ones whose rows are not locked."""
FIRST_PAUSE_SECONDS = 300
LONGEST_PAUSE_SECONDS = 43_200
MAX_TRIES = 10
"""They take about a day and a half."""
WAIT_FOR_SERVER = timedelta(days=3)
"""How long after the disabling a mail stays due while the mail server is unavailable."""
PERMANENT = 500
"""SMTP replies with this code or a higher one are permanent failures."""


class Mail:
    """A mail that is being sent on its own daemon thread, which does not use the database."""

    def __init__(self, webhook: Webhook) -> None:
        self.webhook = webhook
        self.problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="webhooks-mail", daemon=True)
        self._thread.start()

    def is_done(self, timeout_seconds: float) -> bool:
        """Wait up to a time for the sending to end, and return whether it has ended."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            send(self.webhook)
        except Exception as problem:
            # _record() stores the failure in the webhook's row.
            self.problem = problem


class Mailroom:
    """Send due mails; safe to use in many workers at once."""

    def __init__(self) -> None:
        self._under_way: list[Mail] = []

    def send_due(self) -> bool:
        """Send at most one due mail per owner, and return whether there may be more.

        If the mail server refuses the connection, raises its error; the mails stay due.
        """
        self._collect(0.0)
        claimed = self._claim(MAX_CONCURRENT_MAILS - len(self._under_way))
        self._under_way += [Mail(webhook) for webhook in claimed]
        self._collect(TURN_SECONDS)
        return bool(claimed)

    def _claim(self, count: int) -> list[Webhook]:
        due = Webhook.objects.filter(notice_due_at__lte=Now())
        if not count or not due.exists():
            return []
        _check_server()
        place = Window(RowNumber(), partition_by=F("owner_id"), order_by="notice_due_at")
        busy = {mail.webhook.owner_id for mail in self._under_way}
        first = due.exclude(owner_id__in=busy).annotate(place=place).filter(place=1)
        ids = list(first.order_by("notice_due_at").values_list("id", flat=True)[:MAX_DUE_OWNERS])
        parameters = {"ids": ids, "count": count, "lease": LEASE.total_seconds()}
        claimed = [row[0] for row in run(CLAIM_SQL, parameters)]
        return list(Webhook.objects.select_related("owner").filter(id__in=claimed))

    def _collect(self, timeout_seconds: float) -> None:
        """Record the finished mails, except those whose row is locked; they are recorded later."""
        ends_at = time.monotonic() + timeout_seconds
        self._under_way = [
            mail
            for mail in self._under_way
            if not mail.is_done(max(0.0, ends_at - time.monotonic())) or not _record(mail)
        ]


def _check_server() -> None:
    """Connect to the mail server; on an error, give up mails that are too old and raise it."""
    try:
        with get_connection():
            pass
    except Exception as problem:
        parameters = {
            "kept": WAIT_FOR_SERVER.total_seconds(),
            "count": MAX_DUE_OWNERS,
            "error": in_one_line(problem),
        }
        if count := run(GIVE_UP_SQL, parameters).rowcount:
            logger.warning("Gave up %d mails because the mail server is unavailable.", count)
        raise


GIVE_UP_SQL = """
UPDATE webhooks_webhook SET notice_due_at = NULL, notice_error = %(error)s
 WHERE id = ANY(ARRAY(
    SELECT id FROM webhooks_webhook
     WHERE notice_due_at <= statement_timestamp()
       AND disabled_at < statement_timestamp() - make_interval(secs => %(kept)s)
     ORDER BY id LIMIT %(count)s
       FOR NO KEY UPDATE SKIP LOCKED))
"""

CLAIM_SQL = """
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

# The condition on notice_due_at protects a newer notice: the webhook may have been enabled since.
RECORD_SQL = """
UPDATE webhooks_webhook
   SET notice_due_at = clock_timestamp() + make_interval(secs => %(pause)s),
       notice_failures = %(failures)s, notice_error = %(error)s
 WHERE id = ANY(ARRAY(
    SELECT id FROM webhooks_webhook WHERE id = %(webhook)s AND notice_due_at = %(taken)s
       FOR NO KEY UPDATE SKIP LOCKED))
"""


def _record(mail: Mail) -> bool:
    """Store the result of a mail; return False if its row is locked."""
    webhook, problem = mail.webhook, mail.problem
    failures = webhook.notice_failures + 1 if problem else 0
    is_given_up = failures >= MAX_TRIES or _is_permanent(problem)
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
                " and was given up" if is_given_up else "",
                parameters["error"],
            )
        return True
    return not Webhook.objects.filter(id=webhook.id, notice_due_at=webhook.notice_due_at).exists()


def _is_permanent(problem: Exception | None) -> bool:
    if isinstance(problem, SMTPRecipientsRefused):
        return all(code >= PERMANENT for code, _ in problem.recipients.values())
    return isinstance(problem, SMTPDataError) and problem.smtp_code >= PERMANENT


def send(webhook: Webhook) -> None:
    """Send the mail about a disabled webhook; does nothing if the owner has no address.

    Raises the mail backend's errors.
    """
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
"""Mailroom.send_due() of this process's mailroom."""
