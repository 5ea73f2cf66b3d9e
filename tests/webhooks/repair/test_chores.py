"""Housekeeping: each chore has its own schedule, its own failures, and none waits for another."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django import Settings

from projects.models import User
from tests.concurrency import another_connection
from tests.webhooks.history import finish, make_older, trigger
from tests.workers import running_worker, wait_until
from webhooks import service
from webhooks.ids import first_id_of, new_id
from webhooks.models import AuditEntry, Delivery, Event, IdempotentAnswer, Redelivery, Webhook
from webhooks.models import Chore as Row
from webhooks.postgres.sql import set_up_connection
from webhooks.repair import chores, housekeeping, redelivery_batches, retention
from webhooks.repair.chores import Chore, take_turn
from webhooks.repair.housekeeping import Housekeeper
from webhooks.repair.redelivery_scope import Scope

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def limits_of_a_worker(db: None) -> Iterator[None]:
    """Who waits for a row that somebody has locked fails, instead of waiting for ever."""
    connection.close()
    set_up_connection("webhooks-housekeeper")
    yield
    connection.close()


def nothing_left(progress: chores.Progress) -> None:
    return None


def row(name: str = "a") -> Row:
    return Row.objects.get(name=name)


def make_due(name: str = "a") -> None:
    Row.objects.filter(name=name).update(due_at=timezone.now(), leased_until=None)


# The schedule.


def test_a_chore_comes_again_after_its_time_and_not_before() -> None:
    done: list[chores.Progress] = []
    chore = Chore("a", lambda progress: done.append(progress), DAY)

    assert take_turn(chore, new_id()) == DAY.total_seconds()
    assert take_turn(chore, new_id()) > DAY.total_seconds() - 60
    make_due()
    take_turn(chore, new_id())

    assert done == [{}, {}]
    assert row().finished_at is not None


def test_a_run_goes_on_where_the_last_turn_stopped_whoever_did_it() -> None:
    seen: list[chores.Progress] = []

    def work(progress: chores.Progress) -> chores.Progress | None:
        seen.append(progress)
        return {"at": len(seen)} if len(seen) < 3 else None

    chore = Chore("a", work, DAY)

    assert [take_turn(chore, new_id()) for _ in range(3)] == [0.0, 0.0, DAY.total_seconds()]

    assert seen == [{}, {"at": 1}, {"at": 2}]
    assert row().progress is None


def test_a_failure_is_recorded_and_followed_by_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def work(progress: chores.Progress) -> chores.Progress | None:
        if not progress:
            return {"at": 1}
        raise ValueError("No bread\nin the house")

    chore = Chore("a", work, DAY)
    take_turn(chore, new_id())

    pauses = []
    for _ in range(12):
        pauses.append(round(take_turn(chore, new_id())))
        make_due()

    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]
    assert (row().failures, row().last_error) == (12, "ValueError: No bread")
    assert (row().progress, row().finished_at) == ({"at": 1}, None)
    assert "No bread" in caplog.text


@pytest.mark.parametrize("progress", [None, {"at": 1}])
def test_a_chore_does_not_wait_for_a_clock_that_went_back(progress: chores.Progress | None) -> None:
    later = timezone.now() + timedelta(hours=5)
    Row.objects.create(
        name="a", progress=progress, started_at=later, due_at=later + SECOND, leased_until=later,
        claimed_by=new_id(),
    )  # fmt: skip
    done: list[chores.Progress] = []
    chore = Chore("a", lambda progress: done.append(progress), SECOND)

    assert take_turn(chore, new_id()) == 1.0

    assert done == [progress or {}]
    assert row().due_at < timezone.now() + 2 * SECOND


def test_the_next_success_makes_good_what_failed() -> None:
    Row.objects.create(name="a", failures=3, last_error="ValueError: No bread")

    take_turn(Chore("a", nothing_left, DAY), new_id())

    assert (row().failures, row().last_error) == (0, "")


def test_an_error_of_the_database_is_the_chore_s_own() -> None:
    def work(progress: chores.Progress) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    assert take_turn(Chore("a", work, DAY), new_id()) > 0

    assert "division by zero" in row().last_error


def test_a_lost_connection_is_the_chore_s_own() -> None:
    def work(progress: chores.Progress) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    take_turn(Chore("a", work, DAY), new_id())

    assert row().failures == 1


def test_who_dies_in_his_turn_is_followed_by_another() -> None:
    chore = Chore("a", nothing_left, DAY)
    Row.objects.create(name="a", progress={"at": 7}, claimed_by=new_id(), failures=1)
    Row.objects.update(leased_until=timezone.now() + timedelta(minutes=1))
    assert 0 < take_turn(chore, new_id()) <= 60
    assert row().finished_at is None

    seen: list[tuple[chores.Progress, int]] = []
    Row.objects.update(leased_until=timezone.now())
    take_turn(Chore("a", lambda progress: seen.append((progress, row().failures)), DAY), new_id())

    assert seen == [({"at": 7}, 2)]
    assert (row().finished_at is None, row().failures) == (False, 0)


def test_who_comes_back_after_his_lease_changes_nothing() -> None:
    def sleep(progress: chores.Progress) -> chores.Progress:
        Row.objects.update(leased_until=timezone.now())
        take_turn(Chore("a", lambda progress: {"at": 2}, DAY), new_id())
        return {"at": 1}

    take_turn(Chore("a", sleep, DAY), new_id())

    assert row().progress == {"at": 2}


def test_a_local_chore_is_done_by_every_worker_and_rests_only_where_it_fails() -> None:
    done: list[str] = []

    def fail(progress: chores.Progress) -> None:
        raise OSError("Too many processes")

    here, there = new_id(), new_id()
    good = Chore("a", lambda progress: done.append("there"), SECOND, is_local=True)
    bad = Chore("a", fail, SECOND, is_local=True)

    assert [round(take_turn(bad, here)) for _ in range(2)] == [2, 4]
    assert take_turn(good, there) == 1
    assert row().failures == 2
    take_turn(good, here)

    assert (done, row().failures) == (["there", "there"], 0)


def test_workers_whose_connections_are_cut_go_on_looking_for_the_dead() -> None:
    def cut() -> None:
        raise OperationalError("terminating connection due to administrator command")

    workers = [new_id() for _ in range(3)]
    pauses = [take_turn(housekeeping.tending(cut), worker) for _ in range(3) for worker in workers]

    assert max(pauses) < 5


def test_the_failures_of_a_worker_that_is_gone_end_with_the_next_success_of_another() -> None:
    def fail(progress: chores.Progress) -> None:
        raise OSError("Too many processes")

    take_turn(Chore("a", fail, SECOND, is_local=True), new_id())
    Row.objects.update(due_at=timezone.now() - timedelta(seconds=chores.GONE_SECONDS))

    take_turn(Chore("a", nothing_left, SECOND, is_local=True), new_id())

    assert (row().failures, row().last_error) == (0, "")


# The threads.


def test_neither_who_raises_nor_who_hangs_stops_the_others() -> None:
    is_over = threading.Event()
    turns: list[int] = []

    def hang(progress: chores.Progress) -> None:
        is_over.wait()

    def fail(progress: chores.Progress) -> None:
        raise RuntimeError("Broken")

    def work(progress: chores.Progress) -> chores.Progress:
        turns.append(1)
        return {}

    housekeeper = Housekeeper(
        [Chore("hangs", hang, DAY), Chore("fails", fail, DAY), Chore("works", work, DAY)]
    )
    housekeeper.start()
    try:
        wait_until(
            lambda: len(turns) > 20 and Row.objects.filter(name="fails", failures=1).exists()
        )
        assert Row.objects.get(name="hangs").finished_at is None
    finally:
        is_over.set()
        housekeeper.stop(10)


def test_housekeepers_take_turns() -> None:
    under_way: list[int] = []
    most: list[int] = []

    def work(progress: chores.Progress) -> chores.Progress:
        under_way.append(1)
        most.append(len(under_way))
        under_way.pop()
        return {}

    housekeepers = [Housekeeper([Chore("a", work, DAY)]) for _ in range(4)]
    for housekeeper in housekeepers:
        housekeeper.start()
    wait_until(lambda: len(most) > 50)
    for housekeeper in housekeepers:
        housekeeper.stop(10)

    assert max(most) == 1
    assert row().failures == 0


def test_connections_of_housekeeping_have_the_limits_of_the_dispatcher_s() -> None:
    seen: list[Any] = []

    def work(progress: chores.Progress) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('idle_in_transaction_session_timeout'),"
                " current_setting('lock_timeout'), current_setting('application_name')"
            )
            seen.append(cursor.fetchone())

    housekeeper = Housekeeper([Chore("a", work, DAY)])
    housekeeper.start()
    wait_until(lambda: bool(seen))
    housekeeper.stop(10)

    assert seen == [("5s", "5s", f"webhooks-housekeeper {housekeeper.id.hex}")]


def test_a_worker_does_all_chores_and_takes_over_from_one_that_died(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["project.*"], active=False)
    trigger(user, 1)
    Delivery.objects.create(event=Event.objects.latest("id"), webhook=webhook, owner_id=user.id)
    finish("FAILED")
    asked = service.redeliver(Scope(webhook_id=webhook.id))
    Row.objects.create(name="redeliveries", claimed_by=new_id(), leased_until=timezone.now())

    with running_worker(WEBHOOKS_RETENTION_DAYS="7"):
        wait_until(lambda: Redelivery.objects.filter(id=asked.id, status="done").exists())
        names = {chore.name for chore in housekeeping.chores()} | {"purge"}
        wait_until(lambda: Row.objects.exclude(finished_at=None).count() == len(names))

    assert set(Row.objects.values_list("name", "failures")) == {(name, 0) for name in names}


# The chores.


def test_a_purge_by_hand_does_not_postpone_the_daily_one(
    user: User, make_webhook: Callable[..., Webhook], settings: Settings
) -> None:
    settings.WEBHOOKS_RETENTION_DAYS = 7
    make_webhook()
    retention.record(retention.Purged(), user.id)
    trigger(user, 3)
    finish()
    make_older(10 * DAY)

    housekeeping.keep_house()

    assert not Delivery.objects.exists()


FAIL_SQL = """
CREATE FUNCTION pg_temp_fail() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'a hiccup'; END $$;
CREATE TRIGGER hiccup BEFORE DELETE ON webhooks_delivery EXECUTE FUNCTION pg_temp_fail()
"""


def test_a_purge_that_fails_half_way_is_not_done(
    user: User,
    make_webhook: Callable[..., Webhook],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(retention, "FIRST_BATCH", 2)
    settings.WEBHOOKS_RETENTION_DAYS = 7
    make_webhook()
    trigger(user, 5)
    finish()
    make_older(10 * DAY)
    assert housekeeping.keep_house()
    with another_connection() as other:
        other.execute(FAIL_SQL)
    try:
        housekeeping.keep_house()
        assert (row("purge").failures, row("purge").finished_at) == (1, None)
        assert "a hiccup" in row("purge").last_error
    finally:
        with another_connection() as other:
            other.execute("DROP FUNCTION pg_temp_fail CASCADE")

    make_due("purge")
    while housekeeping.keep_house():
        pass

    assert not Delivery.objects.exists()
    assert (row("purge").failures, row("purge").finished_at is None) == (0, False)
    assert AuditEntry.objects.get(action="purge").changes["deliveries"] == 5


def test_the_audit_log_is_kept_for_as_long_as_the_setting_says(
    user: User, settings: Settings
) -> None:
    for age in (0, 29, 31, 400):
        AuditEntry.objects.create(
            id=first_id_of(timezone.now() - age * DAY),
            action="test",
            object_reference=f"{age} days",
        )
    settings.WEBHOOKS_AUDIT_RETENTION_DAYS = 0
    housekeeping.keep_house()
    assert AuditEntry.objects.count() == 4

    settings.WEBHOOKS_AUDIT_RETENTION_DAYS = 30
    housekeeping.keep_house()

    kept = AuditEntry.objects.order_by("id").values_list("object_reference", flat=True)
    assert list(kept) == ["29 days", "0 days"]


# A stranger's lock.


@pytest.fixture
def everything_to_do(
    user: User,
    other_user: User,
    make_webhook: Callable[..., Webhook],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For each of two owners: something to purge, to redeliver, to replay, to mail and to forget."""
    monkeypatch.setattr(redelivery_batches, "RETRY_LOCKED_AFTER", timedelta(0))
    settings.WEBHOOKS_RETENTION_DAYS = 7
    settings.WEBHOOKS_AUDIT_RETENTION_DAYS = 30
    owners = (user, other_user)
    for days, owner in enumerate(owners, 40):
        webhook = make_webhook(owner=owner, events=["project.*"])
        gone = make_webhook(owner=owner, name="gone", events=["session.*"])
        Webhook.objects.filter(id=gone.id).update(deleted_at=timezone.now() - 20 * DAY)
        trigger(owner, 3)
        AuditEntry.objects.create(
            id=first_id_of(timezone.now() - days * DAY), actor_id=owner.id, action="test"
        )
        IdempotentAnswer.objects.create(
            owner_id=owner.id, key="1", request_hash=b"", created_at=timezone.now() - 2 * DAY
        )
    finish()
    make_older(10 * DAY)
    for owner in owners:
        trigger(owner, 3)
    finish("FAILED")
    for owner in owners:
        webhook = Webhook.objects.get(owner=owner, name="Orders")
        service.redeliver(Scope(webhook_id=webhook.id), requested_by=owner)
        late = make_webhook(owner=owner, name="late", events=["project.*"])
        service.replay(late, timezone.now() - DAY, requested_by=owner)
        Webhook.objects.filter(id=late.id).update(active=False, notice_due_at=timezone.now())


def keep_house() -> None:
    """Do all that is due, and what would be due in a while."""
    for _ in range(3):
        Row.objects.update(due_at=timezone.now())
        while housekeeping.keep_house():
            pass


def left_to_do(owner: User) -> dict[str, int]:
    mine = Delivery.objects.filter(owner_id=owner.id)
    return {
        "to redeliver": mine.filter(status="FAILED").count(),
        "to replay": 3 - mine.filter(webhook__name="late").count(),
        "running": Redelivery.objects.filter(requested_by=owner, status="running").count(),
        "old deliveries": mine.filter(status="SUCCESS").count(),
        "deleted webhooks": Webhook.objects.filter(owner=owner, name="gone").count(),
        "mails": 1 - sum(message.to == [owner.email] for message in mail.outbox),
        "mails to record": Webhook.objects.filter(owner=owner, notice_due_at__isnull=False).count(),
        "audit entries": AuditEntry.objects.filter(actor_id=owner.id).count(),
        "responses": IdempotentAnswer.objects.filter(owner_id=owner.id).count(),
    }


LOCKS = {
    "redelivery": "webhooks_redelivery WHERE requested_by_id = %(user)s AND NOT is_replay",
    "replay": "webhooks_redelivery WHERE requested_by_id = %(user)s AND is_replay",
    "redeliveries": "webhooks_redelivery WHERE requested_by_id = %(user)s",
    "webhook": "webhooks_webhook WHERE owner_id = %(user)s AND name = 'Orders'",
    "webhook to mail about": "webhooks_webhook WHERE owner_id = %(user)s AND name = 'late'",
    "deleted webhook": "webhooks_webhook WHERE owner_id = %(user)s AND name = 'gone'",
    "secret of a deleted webhook": "webhooks_signingsecret WHERE webhook_id IN"
    " (SELECT id FROM webhooks_webhook WHERE owner_id = %(user)s AND name = 'gone')",
    "old delivery": "webhooks_delivery WHERE owner_id = %(user)s AND status = 'SUCCESS'",
    "failed delivery": "webhooks_delivery WHERE owner_id = %(user)s AND status = 'FAILED'",
    "failed deliveries": "webhooks_delivery WHERE owner_id = %(user)s AND status = 'FAILED'",
    "old event": "webhooks_event WHERE owner_id = %(user)s",
    "new event": "webhooks_event WHERE owner_id = %(user)s AND created_at > now() - interval '1 d'",
    "audit entry": "webhooks_auditentry WHERE actor_id = %(user)s",
    "stored response": "webhooks_idempotentanswer WHERE owner_id = %(user)s",
    "user": "projects_user WHERE id = %(user)s",
}


@pytest.mark.usefixtures("everything_to_do")
@pytest.mark.slow
@pytest.mark.parametrize("locked", LOCKS)
def test_what_somebody_has_locked_keeps_nobody_else_waiting(
    locked: str, user: User, other_user: User
) -> None:
    limit = "" if locked.endswith("ies") else "ORDER BY id LIMIT 1"
    with another_connection() as other:
        sql = f"SELECT id FROM {LOCKS[locked]} {limit} FOR UPDATE"  # noqa: S608 (constants only)
        assert other.execute(sql, {"user": user.id}).fetchall()

        keep_house()

        assert set(left_to_do(other_user).values()) == {0}
        assert list(Row.objects.exclude(failures=0)) == []
    keep_house()
    assert set(left_to_do(user).values()) == {0}
    assert set(Redelivery.objects.values_list("status", "queued_count")) == {("done", 3)}
    assert len(mail.outbox) == 2
