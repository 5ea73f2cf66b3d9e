"""`manage.py redeliver`: the queued deliveries, the output, and no delivery twice."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psutil
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from config.services import BASE_DIR
from projects.models import User
from tests.webhooks.history import finish, make_older, trigger
from tests.webhooks.management.conftest import Run, hold_back
from tests.workers import environment, running_worker, wait_for_heartbeats
from webhooks import service
from webhooks.ids import new_id
from webhooks.models import Delivery, Redelivery, Webhook, WorkerHeartbeat
from webhooks.repair import redelivery, redelivery_batches, redelivery_progress
from webhooks.repair.redelivery_scope import Scope
from webhooks.workbench.receiver import Behaviour, HttpReceiver

HELD_BACK = (
    "Deliveries are held back while their webhook is disabled, keeps failing or sent Retry-After, "
    "while its owner is not active, or while all sending is paused."
)


@pytest.fixture
def failed(user: User, webhook: Webhook) -> list[Delivery]:
    trigger(user, 3)
    finish("FAILED")
    return list(Delivery.objects.order_by("id"))


def test_named_deliveries_go_again_without_a_question(run: Run, failed: list[Delivery]) -> None:
    ran = run("redeliver", failed[0].public_id, failed[1].id)

    asked = Redelivery.objects.get()
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        f"{asked.public_id}: 2 deliveries queued. "
        f"See manage.py redeliver --resume {asked.public_id} --wait\n"
    )
    assert list(Delivery.objects.order_by("id").values_list("round", flat=True)) == [2, 2, 1]


def test_scope_asks_for_confirmation_and_prints_json(
    run: Run, failed: list[Delivery], webhook: Webhook
) -> None:
    arguments = ("redeliver", "--webhook", webhook.public_id, "--format", "json")

    refused = run(*arguments)
    declined = run(*arguments, answers="no\n")
    assert not Redelivery.objects.exists()
    ran = run(*arguments, answers="y\n")

    assert refused.err == "Redeliver 3 deliveries? To confirm without a terminal, add --no-input.\n"
    assert declined.err == "Redeliver 3 deliveries? [y/N] Nothing was done.\n"
    assert (refused.code, declined.code, ran.code) == (1, 1, 0)
    assert json.loads(ran.out) == {
        "id": Redelivery.objects.get().public_id,
        "status": "done",
        "matched": 3,
        "queued": 3,
        "succeeded": 0,
        "failed": 0,
        "retrying": 0,
        "held": 0,
    }


def test_dry_run_only_counts(run: Run, failed: list[Delivery]) -> None:
    table = run("redeliver", "--owner", "ada", "--limit", 2, "--dry-run")
    document = run("redeliver", "--owner", "ada", "--dry-run", "--format", "json")
    nothing = run("redeliver", "--owner", "ada", "--type", "session.ended", "--dry-run")

    assert table.out == "Would redeliver 2 deliveries. Nothing was sent.\n"
    assert json.loads(document.out) == {"matched": 3, "dryRun": True}
    assert nothing.out == "No delivery matches.\n"
    assert not Redelivery.objects.exists()


def test_limit_takes_the_oldest(run: Run, failed: list[Delivery]) -> None:
    run("redeliver", "--owner", "ada", "--limit", 2, "--no-input")

    assert set(Delivery.objects.filter(round=2)) == set(failed[:2])


def test_skipped_deliveries_are_reported(run: Run, failed: list[Delivery], user: User) -> None:
    trigger(user, 1)
    finish("SUCCESS")
    good = Delivery.objects.get(status="SUCCESS")
    unknown = new_id()

    ran = run("redeliver", failed[0].public_id, good.public_id, unknown)
    forced = run("redeliver", good.public_id, "--force")

    assert sorted(ran.err.splitlines()) == sorted(
        [
            f"{good.public_id} has succeeded; use --force to send it again.",
            f"del_{unknown.hex} does not exist.",
        ]
    )
    assert ": 1 delivery queued." in ran.out
    assert (ran.code, forced.code, forced.err) == (3, 0, "")
    good.refresh_from_db()
    assert good.status == "PENDING"


def test_time_range_and_status(run: Run, failed: list[Delivery], user: User) -> None:
    make_older(timedelta(days=2))
    trigger(user, 1)
    finish("CANCELLED")

    recent = run("redeliver", "--owner", "ada", "--since", "1d", "--dry-run")
    cancelled = run("redeliver", "--owner", "ada", "--status", "cancelled,failed", "--dry-run")
    old = run("redeliver", "--owner", "ada", "--until", "1d", "--dry-run")

    assert recent.out == "No delivery matches.\n"
    assert cancelled.out == "Would redeliver 4 deliveries. Nothing was sent.\n"
    assert old.out == "Would redeliver 3 deliveries. Nothing was sent.\n"


def test_force_respects_given_statuses(run: Run, user: User, webhook: Webhook) -> None:
    trigger(user, 3)
    finish("SUCCESS")

    named = run("redeliver", "--owner", "ada", "--status", "failed", "--force", "--dry-run")
    forced = run("redeliver", "--owner", "ada", "--force", "--dry-run")

    assert named.out == "No delivery matches.\n"
    assert forced.out == "Would redeliver 3 deliveries. Nothing was sent.\n"


def test_invalid_redelivery_is_refused_with_a_reason(
    run: Run, failed: list[Delivery], webhook: Webhook
) -> None:
    asked = redelivery.redeliver(Scope(webhook_id=webhook.id))
    service.delete_webhook(webhook)
    unreadable = Redelivery.objects.create(scope={"colour": "blue"})

    ran = run("redeliver", "--resume", asked.public_id, unreadable.public_id, "--wait")

    said = ran.err.splitlines()
    assert ran.code == 3
    assert f"{asked.public_id} failed: The webhook was deleted." in said
    assert any(line.startswith(f"{unreadable.public_id} failed: TypeError: ") for line in said)


def test_missing_are_created_for_a_new_webhook(
    run: Run, failed: list[Delivery], make_webhook: Callable[..., Webhook]
) -> None:
    late = make_webhook(events=["project.*"])
    arguments = ("redeliver", "--missing", "--webhook", late.public_id, "--since", "1h")

    dry = run(*arguments, "--dry-run")
    ran = run(*arguments, "--no-input")
    again = run(*arguments, "--no-input")

    assert dry.out == "Would create 3 missing deliveries. Nothing was sent.\n"
    assert ": 3 deliveries queued." in ran.out
    assert again.out == "No delivery matches.\n"
    assert Delivery.objects.filter(webhook=late, status="PENDING").count() == 3


def test_missing_of_one_event_go_to_every_webhook_that_selects_it(
    run: Run, failed: list[Delivery], make_webhook: Callable[..., Webhook]
) -> None:
    late = [make_webhook(events=["project.*"]) for _ in range(2)]
    make_webhook(events=["session.*"])

    ran = run("redeliver", "--missing", "--event", f"evt_{failed[0].event_id.hex}", "--no-input")

    assert len(ran.out.splitlines()) == 2
    found = Delivery.objects.filter(event=failed[0].event_id, round=1, status="PENDING")
    assert {delivery.webhook for delivery in found} == set(late)


def test_limit_holds_for_all_webhooks_together(
    run: Run, failed: list[Delivery], make_webhook: Callable[..., Webhook]
) -> None:
    for _ in range(3):
        make_webhook(events=["project.*"])
    event = f"evt_{failed[0].event_id.hex}"
    arguments = ("redeliver", "--missing", "--event", event, "--limit", 2)

    dry = run(*arguments, "--dry-run")
    ran = run(*arguments, "--no-input")

    assert dry.out == "Would create 2 missing deliveries. Nothing was sent.\n"
    assert len(ran.out.splitlines()) == 2
    assert Delivery.objects.filter(event=failed[0].event_id, round=1, status="PENDING").count() == 2


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ([], "Select the deliveries: give ids, a webhook, an event or an owner.", 2),
        (["--status", "failed"], "Select the deliveries", 2),
        (
            ["--owner", "ada", "--status", "sending"],
            "Deliveries with this status cannot be redelivered: SENDING.",
            2,
        ),
        (["del_1"], "'del_1' is not an id of the form del_<32 hex digits>", 1),
        (["--owner", "ada", "--since", "1h", "--until", "2h"], "ends before it starts", 2),
        (["--owner", "ada", "--since", "soon"], "'soon' is not a time such as 2h", 1),
        (["--resume", f"red_{7:032x}"], f"There is no redelivery red_{7:032x}.", 1),
        (["--missing"], "--missing needs --webhook or --event.", 2),
        (["--missing", "--owner", "ada"], "--missing works only with", 2),
        (
            ["--missing", "--event", f"evt_{7:032x}", "--rate", "1/s"],
            "--rate spreads the deliveries of one webhook: name it with --webhook.",
            2,
        ),
        (["--missing", "--event", f"evt_{7:032x}"], f"There is no event evt_{7:032x}.", 1),
        (["--event", f"evt_{7:032x}"], f"There is no event evt_{7:032x}.", 1),
        (["--webhook", f"whk_{7:032x}"], f"There is no webhook whk_{7:032x}.", 1),
        (["--owner", "ada", "--type", "sesion.ended"], "'sesion.ended' is not an event type", 1),
    ],
)
def test_wrong_usage_changes_nothing(
    run: Run, failed: list[Delivery], arguments: list[str], message: str, code: int
) -> None:
    ran = run("redeliver", *arguments)

    assert message in ran.err
    assert (ran.code, ran.out) == (code, "")
    assert not Redelivery.objects.exists()


def test_missing_needs_a_beginning(run: Run, webhook: Webhook) -> None:
    ran = run("redeliver", "--missing", "--webhook", webhook.public_id)

    assert ran.err == "Give the start of the time range, or an event.\n"
    assert ran.code == 2


@pytest.mark.django_db(transaction=True)
def test_wait_shows_a_table_and_partial_failure_is_3(
    run: Run, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    with HttpReceiver() as good, HttpReceiver(behaviour=Behaviour(status=410)) as gone:
        first = make_webhook(name="Good", url=good.url, events=["project.*"])
        second = make_webhook(name="Gone", url=gone.url)
        trigger(user, 3)
        finish("FAILED")
        keep_one = Delivery.objects.filter(webhook=second).order_by("id")[1:]
        Delivery.objects.filter(id__in=[one.id for one in keep_one]).update(status="CANCELLED")
        with running_worker():
            wait_for_heartbeats(1)
            ran = run("redeliver", "--owner", "ada", "--no-input", "--wait")
            named = Delivery.objects.filter(webhook=first).first()
            assert named is not None
            alone = run("redeliver", named.public_id, "--force", "--wait")

    asked, _ = Redelivery.objects.order_by("id")
    width = len(first.public_id)
    assert ran.out.splitlines() == [
        f"{'WEBHOOK':<{width}}  NAME  QUEUED  SUCCEEDED  FAILED  RETRYING  HELD  ERROR",
        f"{first.public_id}  Good       3          3       0         0     0",
        f"{second.public_id}  Gone       1          0       1         0     0"
        "  The receiver answered 410: it is gone for good.",
        f"{asked.public_id}: 4 queued, 3 succeeded, 1 failed, 0 to be retried.",
    ]
    assert (ran.code, alone.code) == (3, 0)
    assert len({request.event_id for request in good.requests}) == 3
    assert len(good.requests) == 4


@pytest.mark.django_db(transaction=True)
def test_wait_does_not_wait_for_a_webhook_that_is_off(
    run: Run, failed: list[Delivery], webhook: Webhook
) -> None:
    service.disable(webhook)

    ran = run("redeliver", "--owner", "ada", "--no-input", "--wait")

    assert ran.err.splitlines() == [
        "No worker is running; start one: manage.py rqworker",
        HELD_BACK,
    ]
    assert ran.out.endswith(" 0 to be retried, 3 held back.\n")
    assert ran.code == 3


@pytest.mark.parametrize("reason", ["breaker", "asked for time", "pause"])
@pytest.mark.django_db(transaction=True)
def test_wait_ignores_held_deliveries(
    run: Run, failed: list[Delivery], webhook: Webhook, reason: str
) -> None:
    WorkerHeartbeat.objects.create(host="a", pid=1)
    hold_back(reason, timezone.now() + timedelta(minutes=5))

    ran = run("redeliver", "--owner", "ada", "--no-input", "--wait")

    paused = ["All sending is paused; resume it: manage.py pause --end"]
    assert ran.err.splitlines() == [*(paused if reason == "pause" else []), HELD_BACK]
    assert ran.out.splitlines()[1].split() == [webhook.public_id, "Orders", *"30003"]
    assert ran.out.endswith(" 0 to be retried, 3 held back.\n")
    assert ran.code == 3


def test_progress_waits_for_a_probe_and_for_a_short_hold(
    failed: list[Delivery], webhook: Webhook
) -> None:
    asked = redelivery.redeliver(Scope(webhook_id=webhook.id))
    redelivery_batches.run(asked.id)
    asked.refresh_from_db()
    now = timezone.now()
    Webhook.objects.update(
        breaker_state="open", breaker_probe_at=now, held_until=now + timedelta(seconds=20)
    )

    progress = redelivery_progress.progress(asked)

    assert (progress.queued, progress.held, progress.is_answered) == (3, 0, False)


def test_progress_distinguishes_deliveries_that_continue_by_themselves(
    failed: list[Delivery], webhook: Webhook
) -> None:
    asked = redelivery.redeliver(Scope(webhook_id=webhook.id))
    redelivery_batches.run(asked.id)
    asked.refresh_from_db()
    later = timezone.now() + timedelta(minutes=5)

    Webhook.objects.update(breaker_state="open", breaker_probe_at=later)
    failing = redelivery_progress.progress(asked)
    service.disable(webhook)
    off = redelivery_progress.progress(asked)

    assert (failing.held, failing.held_for_now, failing.is_answered) == (3, 3, True)
    assert (off.held, off.held_for_now, off.is_answered) == (3, 0, True)


def test_progress_does_not_wait_for_an_inactive_owner(
    failed: list[Delivery], user: User, make_webhook: Callable[..., Webhook]
) -> None:
    platform = make_webhook(owner=None, is_platform=True, events=["project.*"])
    Delivery.objects.filter(id=failed[0].id).update(webhook=platform)
    asked = redelivery.redeliver(Scope(delivery_ids=tuple(one.id for one in failed)))
    redelivery_batches.run(asked.id)
    Delivery.objects.update(status="RETRYING")
    asked.refresh_from_db()
    User.objects.filter(pk=user.pk).update(is_active=False)

    progress = redelivery_progress.progress(asked)

    assert (progress.held, progress.held_for_now, progress.retrying) == (2, 0, 1)
    assert progress.is_answered
    assert [one.held for one in redelivery_progress.outcomes(asked)] == [2, 0]


def test_named_delivery_that_does_not_exist_is_not_a_success(run: Run, webhook: Webhook) -> None:
    unknown = new_id()

    ran = run("redeliver", unknown, "--wait")

    assert (ran.out, ran.err) == ("No delivery matches.\n", f"del_{unknown.hex} does not exist.\n")
    assert ran.code == 3


def test_several_are_resumed_at_once(run: Run, failed: list[Delivery]) -> None:
    first, second = (redelivery.redeliver(Scope(delivery_ids=(one.id,))) for one in failed[:2])

    ran = run("redeliver", "--resume", first.public_id, second.public_id)

    assert ran.code == 0
    assert [line.split(":")[0] for line in ran.out.splitlines()] == [
        first.public_id, second.public_id
    ]  # fmt: skip
    assert set(Delivery.objects.filter(round=2)) == set(failed[:2])


def test_interrupted_at_the_question_nothing_was_done(
    run: Run, failed: list[Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("webhooks.management.terminal.Command.confirm", interrupted)

    ran = run("redeliver", "--owner", "ada")

    assert ran.err.splitlines()[-1] == "Interrupted; nothing was done."
    assert ran.code == 130
    assert not Redelivery.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_interrupted_and_resumed_redelivery_queues_each_delivery_once(
    run: Run, user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery_batches, "BATCH", 10)
    trigger(user, 35)
    finish("FAILED")
    advance = redelivery_batches.advance

    def interrupted_after_first(redelivery_id: Any) -> bool:
        has_more = advance(redelivery_id)
        signal.raise_signal(signal.SIGINT)
        return has_more

    monkeypatch.setattr(redelivery_batches, "advance", interrupted_after_first)
    first = run("redeliver", "--owner", "ada", "--no-input")
    monkeypatch.setattr(redelivery_batches, "advance", advance)
    asked = Redelivery.objects.get()
    half = Delivery.objects.filter(round=2).count()
    second = run("redeliver", "--resume", asked.public_id)

    assert (first.code, half) == (130, 10)
    assert first.err.splitlines()[-1] == (
        "Interrupted; workers continue it. "
        f"See manage.py redeliver --resume {asked.public_id} --wait"
    )
    assert second.code == 0
    assert set(Delivery.objects.values_list("round", flat=True)) == {2}
    asked.refresh_from_db()
    assert (asked.status, asked.queued_count) == ("done", 35)


@pytest.mark.full
@pytest.mark.django_db(transaction=True)
def test_fifty_thousand_killed_half_way_and_resumed(run: Run, user: User, webhook: Webhook) -> None:
    for _ in range(50):
        trigger(user, 1000)
    finish("FAILED")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "redeliver", "--owner", "ada", "--no-input"],
        cwd=BASE_DIR,
        env=environment(),
    )
    deadline = time.monotonic() + 60
    while Delivery.objects.filter(round=2).count() < 10_000:
        assert time.monotonic() < deadline
    process.kill()
    process.wait()
    half = Delivery.objects.filter(round=2).count()
    asked = Redelivery.objects.get()
    memory = psutil.Process().memory_info().rss

    with CaptureQueriesContext(connection) as captured:
        ran = run("redeliver", "--resume", asked.public_id)

    assert 10_000 <= half < 50_000
    assert ran.code == 0
    assert set(Delivery.objects.values_list("round", flat=True)) == {2}
    asked.refresh_from_db()
    assert (asked.status, asked.queued_count) == ("done", 50_000)
    assert len(captured) < 72
    assert psutil.Process().memory_info().rss - memory < 20 * 2**20


@pytest.mark.parametrize("option", ["--dry-run", "--no-input"])
def test_an_ordered_webhook_is_warned_of(
    run: Run, failed: list[Delivery], webhook: Webhook, option: str
) -> None:
    chosen = ("redeliver", "--webhook", webhook.public_id, option)
    assert run("redeliver", "--webhook", webhook.public_id, "--dry-run").err == ""
    Webhook.objects.update(order="all")

    ran = run(*chosen)
    missing = run(*chosen, "--missing", "--since", "1d")
    Delivery.objects.all().delete()
    replayed = run(*chosen, "--missing", "--since", "1d", "--format", "json")

    warning = f"Not in order: {webhook.name} receives"
    assert ran.err.startswith(warning)
    assert (missing.out, missing.err) == ("No delivery matches.\n", "")
    assert replayed.err.startswith(warning)
    if option == "--no-input":
        document = json.loads(replayed.out)
        assert document["warnings"][0].startswith(warning)
        assert run("redeliver", "--resume", document["id"]).err.startswith(warning)
