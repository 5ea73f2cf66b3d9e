"""Breaker, Retry-After, 410, disabling by itself and our own outages, against real receivers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.core import mail
from django.db import connection
from django.utils import timezone

from projects.models import User
from tests.webhooks.history import trigger
from tests.webhooks.wire.test_headers import endpoint_of
from tests.workers import running_worker, wait_until
from webhooks.choices import FailureKind
from webhooks.dispatch.engine import run_until_idle
from webhooks.dispatch.flight import Sent
from webhooks.dispatch.outcome import read_outcome
from webhooks.dispatch.take import ClaimedDelivery
from webhooks.ids import new_id
from webhooks.models import Attempt, Delivery, Event, Webhook
from webhooks.pace.outage import OutageGuard
from webhooks.registry.changes import update_webhook
from webhooks.repair import notices
from webhooks.wire.failures import failure
from webhooks.wire.many import Outcome
from webhooks.wire.phases import Phases
from webhooks.wire.signing import SigningKey, generate_secret
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    return make_webhook(url=receiver.url, events=["project.deleted"])


def states(webhook: Webhook) -> tuple[str, int, int]:
    webhook.refresh_from_db()
    return webhook.breaker_state, webhook.breaker_failures, webhook.breaker_probes


def let_probe_be_due(webhook: Webhook) -> None:
    Webhook.objects.filter(id=webhook.id).update(breaker_probe_at=timezone.now())


def test_breaker_opens_and_holds_the_rest_back_unspent(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=500)
    trigger(user, 100)

    run_until_idle()

    webhook.refresh_from_db()
    assert webhook.breaker_state == "open"
    assert webhook.failing_since is not None
    # Ten in a row, and what was in flight beside them.
    assert 10 <= len(receiver.requests) <= 20
    assert Delivery.objects.filter(attempt_count=0, status="PENDING").count() == 100 - len(
        receiver.requests
    )


def test_open_breaker_sends_one_probe_when_due_at_growing_intervals(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=500)
    trigger(user, 40)
    run_until_idle()
    sent = len(receiver.requests)

    run_until_idle()
    assert len(receiver.requests) == sent

    for probes, seconds in [(1, 60), (2, 120), (3, 240)]:
        let_probe_be_due(webhook)
        run_until_idle()

        assert len(receiver.requests) == sent + probes
        assert states(webhook)[::2] == ("open", probes)
        assert webhook.breaker_probe_at is not None
        wait = webhook.breaker_probe_at - timezone.now()
        assert timedelta(seconds=seconds - 5) < wait <= timedelta(seconds=seconds)


def test_successful_probe_closes_and_everything_is_delivered(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=500)
    trigger(user, 60)
    run_until_idle()
    waiting = Delivery.objects.filter(status="PENDING").count()
    receiver.behaviour = Behaviour()
    let_probe_be_due(webhook)

    run_until_idle()

    assert states(webhook) == ("closed", 0, 0)
    assert webhook.failing_since is None
    assert Delivery.objects.filter(status="SUCCESS").count() == waiting
    # Ramping up: of those that go at once after the probe, never many together.
    assert webhook.breaker_changed_at is not None


def test_one_success_resets_the_count(user: User, webhook: Webhook, receiver: HttpReceiver) -> None:
    receiver.script(*[Behaviour(status=500)] * 5)
    trigger(user, 20)

    run_until_idle()

    assert states(webhook) == ("closed", 0, 0)
    assert webhook.failing_since is None
    assert Delivery.objects.filter(status="SUCCESS").count() == 15


def test_healthy_webhook_has_no_row_written(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    before = Webhook.objects.filter(id=webhook.id).extra(select={"version": "xmin::text"})
    version = before.values_list("version", flat=True)[0]
    trigger(user, 50)

    run_until_idle()

    assert before.all().values_list("version", flat=True)[0] == version


def test_retry_after_holds_the_whole_webhook_back(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=429, headers=(("Retry-After", "300"),))
    trigger(user, 1)
    run_until_idle()
    trigger(user, 5)

    run_until_idle()

    webhook.refresh_from_db()
    assert len(receiver.requests) == 1
    assert webhook.held_until is not None
    assert timedelta(seconds=290) < webhook.held_until - timezone.now() <= timedelta(seconds=300)
    retry = Delivery.objects.get(status="RETRYING")
    assert retry.next_attempt_at is not None
    assert retry.next_attempt_at > timezone.now() + timedelta(seconds=290)


def test_webhook_that_moves_to_another_server_waits_for_nothing_of_the_old_one(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=503, headers=(("Retry-After", "80000"),))
    trigger(user, 30)
    run_until_idle()
    webhook.refresh_from_db()
    assert webhook.held_until is not None

    with HttpReceiver() as other:
        update_webhook(webhook, url=other.url + "elsewhere")
        run_until_idle()

        webhook.refresh_from_db()
        assert webhook.failing_since is webhook.held_until is None
        assert len(other.requests) == 30 - len(receiver.requests)


def test_last_words_of_the_server_that_was_left_count_no_more(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(
        status=503, headers=(("Retry-After", "80000"),), delay_seconds=0.5
    )
    trigger(user, 1)

    run_while_the_url_changes(webhook, receiver)

    assert webhook.held_until is webhook.failing_since is None


def test_path_that_changes_at_the_same_server_ends_no_wait(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=503, headers=(("Retry-After", "80000"),))
    trigger(user, 1)
    run_until_idle()

    update_webhook(webhook, url=receiver.url + "elsewhere")
    trigger(user, 1)
    run_until_idle()

    assert len(receiver.requests) == 1


def test_410_fails_disables_and_tells(
    user: User,
    webhook: Webhook,
    receiver: HttpReceiver,
    make_webhook: Callable[..., Webhook],
) -> None:
    receiver.behaviour = Behaviour(status=410)
    other = make_webhook(url="http://127.0.0.1:9/", name="other", events=["webhook.disabled"])
    trigger(user, 1)

    run_until_idle()
    trigger(user, 1)
    notices.send_due()
    notices.send_due()

    webhook.refresh_from_db()
    assert (webhook.active, Delivery.objects.get(webhook=webhook).status) == (False, "FAILED")
    assert "410" in webhook.disabled_reason
    event = Event.objects.get(type="webhook.disabled")
    assert list(event.deliveries.values_list("webhook_id", flat=True)) == [other.id]
    (message,) = mail.outbox
    assert message.to == [user.email]
    assert webhook.name in message.subject
    assert "410" in message.body
    assert webhook.public_id in str(message.alternatives[0][0])  # type: ignore[attr-defined]


def test_410_of_an_earlier_url_does_not_disable(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=410, delay_seconds=0.5)
    trigger(user, 1)

    run_while_the_url_changes(webhook, receiver)

    assert (webhook.active, Delivery.objects.get().status) == (True, "FAILED")


def run_while_the_url_changes(webhook: Webhook, receiver: HttpReceiver) -> None:
    """Deliver what is due; with the first request under way, the webhook moves to another server."""

    def change() -> None:
        receiver.wait_for(1)
        Webhook.objects.filter(id=webhook.id).update(url="http://127.0.0.1:9/")
        connection.close()

    with ThreadPoolExecutor() as pool:
        changed = pool.submit(change)
        run_until_idle()
        changed.result()
    webhook.refresh_from_db()


def test_mail_that_cannot_be_sent_stays_owed(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("django.core.mail.EmailMultiAlternatives.send", fail)
    Webhook.objects.update(active=False, notice_due_at=timezone.now())

    notices.send_due()
    monkeypatch.undo()
    notices.send_due()
    assert mail.outbox == []

    Webhook.objects.update(notice_due_at=timezone.now())
    notices.send_due()
    assert len(mail.outbox) == 1


def test_line_break_in_a_name_adds_no_mail_header(user: User, webhook: Webhook) -> None:
    Webhook.objects.update(
        active=False, notice_due_at=timezone.now(), name="Orders\nBcc: x@example.com <b>"
    )

    notices.send_due()

    (message,) = mail.outbox
    assert message.subject == "Your webhook Orders Bcc: x@example.com <b> was disabled"
    assert message.recipients() == [user.email]
    assert "&lt;b&gt;" in str(message.alternatives[0][0])  # type: ignore[attr-defined]


def test_failing_for_five_days_disables(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=500)
    Webhook.objects.update(failing_since=timezone.now() - timedelta(days=5), breaker_failures=1)
    trigger(user, 3)

    run_until_idle()

    webhook.refresh_from_db()
    assert (webhook.active, webhook.disabled_reason) == (
        False,
        "No delivery succeeded for 5 days.",
    )
    # Disabled keeps.
    assert set(Delivery.objects.values_list("status", flat=True)) <= {"PENDING", "RETRYING"}


def test_success_within_the_five_days_keeps_it_active(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    Webhook.objects.update(failing_since=timezone.now() - timedelta(days=4), breaker_failures=1)
    trigger(user, 1)
    run_until_idle()
    receiver.behaviour = Behaviour(status=500)
    trigger(user, 1)

    run_until_idle()

    webhook.refresh_from_db()
    assert webhook.active
    assert webhook.failing_since is not None
    assert timezone.now() - webhook.failing_since < timedelta(minutes=1)


def test_nobody_is_disabled_while_most_fail(
    user: User,
    webhook: Webhook,
    receiver: HttpReceiver,
    make_webhook: Callable[..., Webhook],
) -> None:
    receiver.behaviour = Behaviour(status=500)
    for number in range(4):
        owner = User.objects.create(username=f"u{number}", email=f"u{number}@example.com")
        make_webhook(owner=owner)
    Webhook.objects.update(failing_since=timezone.now() - timedelta(days=6), breaker_failures=1)
    trigger(user, 1)

    run_until_idle()
    webhook.refresh_from_db()
    assert webhook.active

    # Without the others failing, it is its own fault.
    Webhook.objects.exclude(id=webhook.id).update(failing_since=None)
    Delivery.objects.update(next_attempt_at=timezone.now())
    run_until_idle()
    webhook.refresh_from_db()
    assert not webhook.active


def test_outage_of_our_own_spends_no_attempts(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    owners = [
        User.objects.create(username=f"u{number}", email=f"u{number}@example.com")
        for number in range(6)
    ]
    for owner in owners:
        # Nothing listens there: connecting fails for everybody.
        make_webhook(owner=owner, url="http://127.0.0.1:9/", events=["project.deleted"])
    for owner in owners:
        trigger(owner, 20)

    run_until_idle()

    spent = sum(
        delivery.attempt_count - delivery.attempts_before_round
        for delivery in Delivery.objects.all()
    )
    assert Attempt.objects.count() >= 4
    # What was in flight when it was noticed, not one attempt of each of 120.
    assert spent < 60
    assert not Webhook.objects.filter(active=False).exists()


def test_deliveries_do_not_come_back_from_an_outage_in_step() -> None:
    key = SigningKey.from_secret(generate_secret())
    delivery = ClaimedDelivery(new_id(), new_id(), new_id(), 0, 0, "not.in_the_catalogue", b"{}")
    sent = Sent(delivery, endpoint_of("http://x/", (), key), new_id(), 0.0)
    error = failure(FailureKind.CONNECT)
    outcome = Outcome(sent, None, None, error, 0.0, 5, Phases(0.0))

    delays = [
        read_outcome(sent, outcome, 0.0, True, is_ordered=False)[0][0].result["delay_seconds"]
        for _ in range(100)
    ]

    assert len(set(delays)) > 50
    assert all(delay and 27.0 <= delay <= 33.0 for delay in delays)


def test_outage_guard_tells_ours_from_theirs() -> None:
    owners = [new_id() for _ in range(6)]
    webhooks = {owner: [new_id() for _ in range(3)] for owner in owners}
    guard = OutageGuard()

    # One owner's fault, however many webhooks.
    for webhook_id in webhooks[owners[0]]:
        guard.not_reached(webhook_id, owners[0], 0.0)
    assert not guard.is_out

    # Some answer, some do not.
    for owner in owners[1:4]:
        guard.reached(webhooks[owner][0], owner, 1.0)
    for owner in owners[1:]:
        guard.not_reached(webhooks[owner][1], owner, 2.0)
    assert not guard.is_out

    # Most webhooks of most owners.
    for owner in owners:
        for webhook_id in webhooks[owner]:
            guard.not_reached(webhook_id, owner, 3.0)
    assert guard.is_out

    # Any answer ends it.
    guard.reached(webhooks[owners[5]][2], owners[5], 4.0)
    assert not guard.is_out


def test_outage_guard_believes_whoever_answers() -> None:
    guard = OutageGuard()
    dead = [(new_id(), new_id()) for _ in range(6)]
    healthy = [(new_id(), new_id()) for _ in range(4)]

    # More fail than answer, again and again, but somebody always answers.
    for number in range(60):
        guard.not_reached(*dead[number % 6], float(number))
        guard.reached(*healthy[number % 4], float(number))
        assert not guard.is_out

    # Then for a moment nobody does.
    for webhook in dead:
        guard.not_reached(*webhook, 60.0)
    assert guard.is_out

    # Who answered before ends it as well.
    guard.reached(*healthy[0], 61.0)
    assert not guard.is_out


def test_address_that_may_not_be_connected_to_ends_no_outage() -> None:
    guard = OutageGuard()
    for _ in range(6):
        guard.note(FailureKind.CONNECT, new_id(), new_id(), 0.0)

    is_ours = guard.note(FailureKind.BLOCKED_ADDRESS, new_id(), new_id(), 1.0)

    assert not is_ours
    assert guard.is_out
    assert guard.note(FailureKind.CONNECT, new_id(), new_id(), 2.0)


def test_probe_goes_first_to_who_was_reached_lately_and_last_to_who_failed() -> None:
    guard = OutageGuard()
    reached, unknown, failed = new_id(), new_id(), new_id()
    guard.note(None, reached, new_id(), 0.0)
    guard.note(FailureKind.TIMEOUT, failed, new_id(), 0.0)

    assert sorted([failed, unknown, reached], key=guard.rank) == [reached, unknown, failed]


def test_healthy_webhook_ends_what_looks_like_an_outage_beside_many_dead_ones(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    for number in range(40):
        owner = User.objects.create(username=f"u{number}", email=f"u{number}@example.com")
        make_webhook(owner=owner, url="http://127.0.0.1:9/", events=["project.deleted"])
        trigger(owner, 20)
    with running_worker():
        wait_until(lambda: Attempt.objects.count() > 40)
        trigger(user, 1)

        receiver.wait_for(1, timeout_seconds=15)


def test_outage_guard_forgets() -> None:
    guard = OutageGuard()
    for _ in range(6):
        guard.not_reached(new_id(), new_id(), 0.0)
    assert guard.is_out

    guard.forget_old(61.0)
    assert not guard.is_out
    guard.not_reached(new_id(), new_id(), 61.0)

    assert not guard.is_out
