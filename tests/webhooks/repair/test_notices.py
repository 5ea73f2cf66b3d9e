"""Mails about disabled webhooks: refused ones are given up, and none delays another."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from projects.models import User
from tests.concurrency import another_connection
from tests.smtp import MailServer
from tests.workers import free_port, wait_until
from webhooks import service
from webhooks.models import Chore, Webhook
from webhooks.repair import housekeeping, notices
from webhooks.repair.notices import Mailroom

pytestmark = pytest.mark.django_db(transaction=True)

Owe = Callable[[User], Webhook]


@pytest.fixture
def server(settings: Settings) -> Iterator[MailServer]:
    with MailServer() as server:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
        settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
        settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
        yield server


@pytest.fixture
def owe(make_webhook: Callable[..., Webhook]) -> Owe:
    """Create a disabled webhook with a due mail."""

    def owe(owner: User) -> Webhook:
        webhook = make_webhook(owner=owner, name=f"of {owner.username}", events=["project.*"])
        Webhook.objects.filter(id=webhook.id).update(
            active=False, disabled_at=timezone.now(), notice_due_at=timezone.now()
        )
        return webhook

    return owe


def make_due() -> None:
    Webhook.objects.exclude(notice_due_at=None).update(notice_due_at=timezone.now())


def send_all(mailroom: Mailroom) -> None:
    while mailroom.send_due():
        pass


@pytest.mark.parametrize("at", ["recipient", "data"])
def test_a_refused_recipient_is_given_up_and_delays_no_other_mail(
    server: MailServer, owe: Owe, user: User, other_user: User, at: str
) -> None:
    refusals = server.refuse if at == "recipient" else server.refuse_data
    refusals[user.email] = "550 No such user"
    refused, _ = owe(user), owe(other_user)

    send_all(Mailroom())
    send_all(Mailroom())

    assert server.received == [other_user.email]
    refused.refresh_from_db()
    assert (refused.notice_due_at, refused.notice_failures) == (None, 1)
    assert "550" in refused.notice_error
    assert server.asked[user.email] == 1


def test_a_refusal_for_now_is_followed_by_growing_pauses_and_an_end(
    server: MailServer, owe: Owe, user: User
) -> None:
    server.refuse[user.email] = "451 Greylisted"
    webhook = owe(user)
    pauses = []
    for _ in range(notices.MAX_TRIES - 1):
        send_all(Mailroom())
        webhook.refresh_from_db()
        assert webhook.notice_due_at is not None
        pauses.append(round((webhook.notice_due_at - timezone.now()).total_seconds() / 60))
        make_due()

    send_all(Mailroom())
    webhook.refresh_from_db()

    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 720]
    assert (webhook.notice_due_at, webhook.notice_failures) == (None, notices.MAX_TRIES)
    assert "451" in webhook.notice_error
    service.enable(webhook)
    assert (webhook.notice_failures, webhook.notice_error) == (0, "")


def test_a_mail_sent_after_failures_clears_them(server: MailServer, owe: Owe, user: User) -> None:
    server.refuse[user.email] = "451 Greylisted"
    webhook = owe(user)
    send_all(Mailroom())
    server.refuse.clear()
    make_due()

    send_all(Mailroom())

    webhook.refresh_from_db()
    assert server.received == [user.email]
    assert (webhook.notice_due_at, webhook.notice_failures) == (None, 0)
    assert webhook.notice_error == ""


def test_a_mail_server_that_is_away_fails_the_chore_and_no_mail(
    server: MailServer, owe: Owe, user: User, settings: Settings
) -> None:
    webhook = owe(user)
    settings.EMAIL_PORT = free_port()
    for _ in range(notices.MAX_TRIES + 1):
        housekeeping.keep_house()
        Chore.objects.update(due_at=timezone.now())

    webhook.refresh_from_db()
    chore = Chore.objects.get(name="mails")
    assert chore.failures == notices.MAX_TRIES + 1
    assert "ConnectionRefusedError" in chore.last_error
    assert webhook.notice_failures == 0
    settings.EMAIL_PORT = server.port
    housekeeping.keep_house()
    assert server.received == [user.email]


def test_a_mail_server_that_stays_away_is_not_waited_for_for_ever(
    server: MailServer, owe: Owe, user: User, other_user: User, settings: Settings
) -> None:
    old, young = owe(user), owe(other_user)
    Webhook.objects.filter(id=old.id).update(
        disabled_at=timezone.now() - notices.WAIT_FOR_SERVER - timedelta(minutes=1)
    )
    settings.EMAIL_PORT = free_port()

    with pytest.raises(ConnectionRefusedError):
        send_all(Mailroom())

    old.refresh_from_db()
    young.refresh_from_db()
    assert (old.notice_due_at, young.notice_due_at is None) == (None, False)
    assert old.notice_error.startswith("ConnectionRefusedError")
    settings.EMAIL_PORT = server.port
    send_all(Mailroom())
    assert server.received == [other_user.email]


def test_a_hanging_recipient_delays_no_other_mail(
    server: MailServer, owe: Owe, user: User, other_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "TURN_SECONDS", 0.5)
    server.hang.add(user.email)
    first = owe(user)
    for _ in range(notices.MAX_CONCURRENT_MAILS):
        owe(user)
    mailroom = Mailroom()
    send_all(mailroom)
    assert server.asked[user.email] == 1

    owe(other_user)
    send_all(mailroom)

    assert server.received == [other_user.email]
    server.go_on.set()
    send_all(mailroom)
    wait_until(
        lambda: (
            mailroom.send_due()
            or not Webhook.objects.filter(id=first.id).exclude(notice_due_at=None)
        )
    )
    wait_until(
        lambda: (
            not mailroom.send_due() and server.asked[user.email] == notices.MAX_CONCURRENT_MAILS + 1
        )
    )


def test_a_mail_sent_while_its_row_is_locked_is_not_sent_again(
    server: MailServer, owe: Owe, user: User, other_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "TURN_SECONDS", 0.5)
    server.hang.add(user.email)
    webhook = owe(user)
    mailroom = Mailroom()
    send_all(mailroom)
    with another_connection() as other:
        other.execute("SELECT FROM webhooks_webhook WHERE id = %s FOR UPDATE", [webhook.id])
        server.go_on.set()
        wait_until(lambda: server.received == [user.email])
        owe(other_user)
        send_all(mailroom)
        assert server.received == [user.email, other_user.email]

    wait_until(lambda: not mailroom.send_due() and not Webhook.objects.exclude(notice_due_at=None))
    assert server.received == [user.email, other_user.email]


def test_a_notice_that_came_anew_meanwhile_is_not_lost(
    server: MailServer, owe: Owe, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "TURN_SECONDS", 0.5)
    server.hang.add(user.email)
    webhook = owe(user)
    mailroom = Mailroom()
    send_all(mailroom)
    service.enable(webhook)
    Webhook.objects.update(active=False, notice_due_at=timezone.now() - timedelta(seconds=1))

    server.go_on.set()
    wait_until(lambda: not mailroom.send_due() and len(server.received) == 2)
    assert not Webhook.objects.exclude(notice_due_at=None).exists()
