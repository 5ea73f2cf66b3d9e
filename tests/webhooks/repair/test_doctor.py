"""The doctor finds each planted fault with its remedy, and none in a healthy system."""

import inspect
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from ipaddress import ip_network
from pathlib import Path

import pytest
from django.core.management import call_command, get_commands
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings
from django.utils import timezone
from pytest_django import Settings

from config.embedded import valkey_binary
from projects.models import User
from tests.webhooks.history import finish, trigger
from tests.workers import answers, free_port, wait_until
from webhooks.ids import new_id
from webhooks.models import (
    Attempt,
    Chore,
    Delivery,
    Event,
    Pause,
    Redelivery,
    Webhook,
    WorkerHeartbeat,
)
from webhooks.outbox import valkey
from webhooks.repair import doctor, doctor_servers, doctor_valkey, doctor_work, findings, integrity
from webhooks.repair.findings import Finding, Level

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def healthy(
    user: User,
    make_webhook: Callable[..., Webhook],
    settings: Settings,
    empty_valkey: None,
    unhurried_doctor: None,
) -> Webhook:
    """A live worker, a webhook with finished deliveries, and no due delivery."""
    settings.DEBUG = True
    WorkerHeartbeat.objects.create(host="a", pid=1)
    webhook = make_webhook(events=["project.*"])
    webhook.headers = {"X-Team": "billing"}
    webhook.save()
    trigger(user, 4)
    finish()
    return webhook


def problems(*checks: findings.Check) -> list[Finding]:
    return [found for found in doctor.examine(checks or None) if found.level > Level.OK]


def test_healthy_system_has_no_finding() -> None:
    assert [finding.message for finding in problems()] == []
    assert len(list(doctor.examine())) == len(doctor.CHECKS)


def lost_row(user: User) -> None:
    trigger(user)
    Delivery.objects.filter(finished_at=None).update(next_attempt_at=None)


def stuck_lease(user: User) -> None:
    trigger(user)
    Delivery.objects.filter(finished_at=None).update(status="SENDING", claimed_by=new_id())


def missing_delivery(user: User) -> None:
    (event,) = trigger(user)
    Delivery.objects.filter(event=event).delete()


def orphan_attempt(user: User) -> None:
    Attempt.objects.create(delivery_id=new_id(), number=1, started_at=timezone.now(), duration_ms=1)


def wrong_key(user: User, settings: Settings) -> None:
    settings.WEBHOOKS_ENCRYPTION_KEYS = [b"0" * 32]


def dead_worker(user: User) -> None:
    WorkerHeartbeat.objects.update(beat_at=timezone.now() - timedelta(seconds=93))


def unapplied_migration(user: User) -> None:
    MigrationRecorder.Migration.objects.filter(app="webhooks").order_by("-id")[:1].get().delete()


def failing_chore(user: User) -> None:
    Chore.objects.create(name="mails", failures=3, last_error="ConnectionRefusedError: No")


def old_backlog(user: User) -> None:
    trigger(user)
    Delivery.objects.filter(finished_at=None).update(
        next_attempt_at=timezone.now() - timedelta(hours=1)
    )


def clock_skew(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr("webhooks.repair.doctor_servers.time.time", lambda: real() + 30)


PLANTED: list[tuple[Callable[..., None], str, str, str]] = [
    (lost_row, "audit", "Deliveries in a state that no worker will ever claim: 1.", "manage.py doctor --mend"),
    (stuck_lease, "audit", "Deliveries in flight at a dead worker: 1.", "manage.py doctor --mend"),
    (missing_delivery, "audit", "Events with fewer deliveries than matching webhooks: 1.", "manage.py redeliver --missing --event evt_"),
    (orphan_attempt, "audit", "Attempts without a delivery: 1.", "manage.py doctor --mend"),
    (dead_worker, "workers", "Worker a:1 has sent no heartbeat for 93 s.", "manage.py rqworker"),
    (unapplied_migration, "migrations", "Not applied: webhooks.", "manage.py migrate"),
    (failing_chore, "chores", "The chore 'mails' failed 3 times in a row: ConnectionRefusedError: No", "Set EMAIL_URL="),
    (old_backlog, "backlog", "Deliveries due: 1, the oldest for 3600 s.", "manage.py rqworker-pool"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "check", "message", "mend"), PLANTED)
def test_planted_fault_is_the_only_finding(
    user: User, plant: Callable[..., None], check: str, message: str, mend: str
) -> None:
    plant(user)

    (found,) = problems()

    assert (found.check, found.level) == (check, Level.FAILURE)
    assert found.message.startswith(message)
    assert found.mend.startswith(mend)


def overdue_chore(webhook: Webhook) -> None:
    Chore.objects.create(name="redeliveries", due_at=timezone.now() - timedelta(minutes=3))


def hanging_chore(webhook: Webhook) -> None:
    then = timezone.now() - timedelta(minutes=3)
    Chore.objects.create(
        name="mails", due_at=timezone.now() - DAY, claimed_by=new_id(), leased_until=then
    )


def given_up_mail(webhook: Webhook) -> None:
    Webhook.objects.update(active=False, disabled_at=timezone.now(), notice_error="550 Nobody")


def failed_redelivery(webhook: Webhook) -> None:
    Redelivery.objects.create(
        status="failed", finished_at=timezone.now(), error="The webhook was deleted."
    )


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (overdue_chore, "The chore 'redeliveries' has been due for 180 s, and no worker runs it."),
        (hanging_chore, "The chore 'mails' has been due for 180 s, and no worker runs it."),
        (
            given_up_mail,
            "Mails about disabled webhooks that could not be sent: 1. Last error: 550 Nobody",
        ),
        (
            failed_redelivery,
            "Failed redeliveries: 1. Last error: The webhook was deleted.",
        ),
    ],
)
def test_unfinished_housekeeping_is_a_warning(
    healthy: Webhook, plant: Callable[[Webhook], None], message: str
) -> None:
    plant(healthy)

    (found,) = problems()

    assert (found.check, found.level) == ("chores", Level.WARNING)
    assert found.message == message


def test_a_disabled_chore_is_no_finding(settings: Settings) -> None:
    settings.WEBHOOKS_RETENTION_DAYS = 0
    Chore.objects.create(name="purge", failures=9, due_at=timezone.now() - DAY)

    assert problems() == []


def test_wrong_key_is_found_in_secrets_and_headers(
    user: User, settings: Settings, healthy: Webhook
) -> None:
    wrong_key(user, settings)

    secrets, headers = problems()

    assert secrets.message == (
        "Signing secrets that no key in WEBHOOKS_ENCRYPTION_KEYS decrypts: 1."
    )
    assert (headers.message[:14], headers.ids) == ("Custom headers", [str(healthy.id)])
    assert secrets.mend.startswith("Add their key after the first one")


def test_former_key_that_is_still_needed_is_a_warning(user: User, settings: Settings) -> None:
    settings.WEBHOOKS_ENCRYPTION_KEYS = [b"0" * 32, *settings.WEBHOOKS_ENCRYPTION_KEYS]

    found = problems()

    assert [(one.level, one.mend, one.count) for one in found] == [
        (Level.WARNING, "manage.py reencrypt", 1)
    ] * 2
    assert found[0].message == "Signing secrets that still need an old key: 1."


def test_evicting_valkey_is_found(evicting_valkey: None) -> None:
    (found,) = problems()

    assert (found.check, found.level) == ("valkey", Level.WARNING)
    assert "(allkeys-lru)" in found.message
    assert found.mend.startswith("valkey-cli CONFIG SET maxmemory-policy noeviction")


def test_clock_skew_is_found(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    clock_skew(user, monkeypatch)

    (found,) = problems(doctor_servers.check_clock)

    assert found.message == "This machine's clock is 30.0 s ahead of the database's."
    assert found.mend.startswith("timedatectl set-ntp true")


def test_no_worker_at_all_is_found() -> None:
    WorkerHeartbeat.objects.all().delete()

    (found,) = problems()

    assert (found.message, found.mend) == (
        "No worker is running: no event is sent.",
        "manage.py rqworker",
    )


def test_unreachable_valkey_is_a_warning(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"

    (found,) = problems()

    assert (found.check, found.level) == ("valkey", Level.WARNING)
    assert "events are sent up to a second later" in found.message


@pytest.mark.parametrize("mode", ["cluster", "sentinel"])
def test_valkey_that_is_no_single_server_is_found(
    settings: Settings, tmp_path: Path, mode: str
) -> None:
    configuration = tmp_path / "valkey.conf"
    configuration.write_text(f"dir {tmp_path}\n")
    port = free_port()
    command = [str(valkey_binary()), str(configuration), "--port", str(port), "--bind", "127.0.0.1"]
    if mode == "sentinel":
        command += ["--sentinel"]
    else:
        command += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    settings.REDIS_URL = f"redis://127.0.0.1:{port}/0"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        wait_until(lambda: answers(port))

        (found,) = problems(doctor_servers.check_valkey)
        server.kill()

    assert found.level == Level.FAILURE
    assert found.message.startswith(f"REDIS_URL leads to a server in {mode} mode")


def test_full_queue_is_a_warning() -> None:
    client = valkey.connect(2)
    client.rpush("rq:queue:default", *[str(number) for number in range(150)])

    (found,) = problems()

    assert found.message == "The queue 'default' has 150 jobs: no worker takes them."
    client.flushdb()


def test_pause_is_a_warning() -> None:
    Pause.objects.create(reason="Maintenance")

    (found,) = problems()

    assert (found.check, found.level) == ("backlog", Level.WARNING)
    assert found.message.endswith("UTC: Maintenance")


def test_slow_servers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_servers, "SLOW_DATABASE_MS", 0)
    monkeypatch.setattr(doctor_valkey, "SLOW_VALKEY_MS", 0)

    database, valkey = problems()

    assert (database.check, database.level) == ("database", Level.WARNING)
    assert (valkey.check, valkey.level) == ("valkey", Level.WARNING)


def test_events_of_a_restored_dump_need_no_mending() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE webhooks_event SET transaction_id = '123456789012'")

    (found,) = doctor_work.check_order()

    assert (found.level, found.message) == (
        Level.OK,
        "The stored events come from an earlier server; they precede all new ones.",
    )
    assert problems() == []


def test_server_without_an_identity_is_a_warning() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE unprivileged")
        cursor.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        cursor.execute("ALTER FUNCTION webhooks_cluster() OWNER TO unprivileged")

    (found,) = doctor_work.check_order()

    assert (found.check, found.level) == ("order", Level.WARNING)
    assert found.mend.startswith("GRANT EXECUTE ON FUNCTION pg_control_system()")


def test_settings_that_hurt_are_found_outside_development(settings: Settings) -> None:
    settings.DEBUG = False
    settings.WEBHOOKS_ALLOWED_NETWORKS = [ip_network("127.0.0.0/8")]
    settings.WEBHOOKS_REQUIRE_HTTPS = False
    settings.WEBHOOKS_RETENTION_DAYS = 0
    settings.EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"

    messages = [finding.message for finding in problems(doctor.check_settings)]

    assert messages == [
        "Webhooks may reach 127.0.0.0/8: this machine, or all addresses.",
        "Webhooks may use http:// URLs: payloads are sent unencrypted.",
        "Old deliveries are never purged: the tables grow without limit.",
        "Mails to owners of disabled webhooks are not sent.",
        "Production uses the development environment's Postgres and Valkey.",
    ]


@pytest.mark.django_db(transaction=True)
def test_one_check_that_cannot_look_does_not_hide_the_others() -> None:
    def check_nothing() -> Iterator[Finding]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
        yield findings.ok("nothing", "")

    first, second = doctor.examine([check_nothing, doctor.check_settings])

    assert (first.check, first.level) == ("nothing", Level.FAILURE)
    assert first.message == "The check could not run: division by zero"
    assert second.check == "settings"


@override_settings(REDIS_URL="redis://:secret@127.0.0.1:word")
def test_setting_that_cannot_be_read_is_a_finding_without_its_value() -> None:
    found, other = doctor.examine([doctor_servers.check_valkey, doctor.check_libraries])

    assert (found.check, found.level) == ("valkey", Level.FAILURE)
    assert found.message == "The check could not run (ValueError)."
    assert other.check == "libraries"


@pytest.mark.django_db(transaction=True)
def test_lost_connection_is_a_finding_of_one_check_only() -> None:
    def check_lost() -> Iterator[Finding]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        yield findings.ok("lost", "")

    found = doctor.examine([check_lost, doctor_servers.check_clock])

    assert [(one.check, one.level) for one in found] == [
        ("lost", Level.FAILURE), ("clock", Level.OK),
    ]  # fmt: skip


def test_ids_are_bounded_and_counted(user: User) -> None:
    events = trigger(user, 30)
    Delivery.objects.filter(event__in=events).delete()

    (found,) = problems()

    assert (found.count, len(found.ids)) == (30, doctor_work.IDS_SHOWN)
    assert set(found.ids) <= {event.public_id for event in events}


def contradiction(user: User) -> None:
    Delivery.objects.filter(id=Delivery.objects.order_by("id")[0].id).update(finished_at=None)


def miscount(user: User) -> None:
    Delivery.objects.filter(id=Delivery.objects.order_by("id")[0].id).update(attempt_count=5)


def surplus(user: User) -> None:
    Event.objects.filter(type="project.deleted").update(fanout_count=0)


def eventless(user: User) -> None:
    Event.objects.filter(id=Delivery.objects.order_by("id")[0].event_id)._raw_delete("default")


def paused(user: User) -> None:
    Pause.objects.create(reason="Maintenance")


MENDED_BY_COMMAND = [
    lost_row, stuck_lease, missing_delivery, orphan_attempt, contradiction, miscount, surplus,
    eventless, paused,
]  # fmt: skip


@pytest.mark.parametrize("plant", MENDED_BY_COMMAND)
def test_named_command_fixes_the_finding(user: User, plant: Callable[[User], None]) -> None:
    plant(user)
    found = problems()
    program, name, *arguments = found[0].mend.split()
    if "--missing" in arguments:
        arguments.append("--no-input")

    call_command(name, *arguments, stdout=StringIO(), stderr=StringIO())

    assert program == "manage.py"
    assert problems(doctor.check_audit, doctor_work.check_backlog) == []


def test_commands_that_findings_name_exist() -> None:
    modules = [doctor, doctor_servers, doctor_valkey, doctor_work, integrity]
    text = "".join(map(inspect.getsource, modules))
    named = set(re.findall(r"manage\.py ([a-z-]+)", text))

    assert named <= set(get_commands())
    assert {"doctor", "migrate", "pause", "redeliver", "rqworker", "rqworker-pool"} <= named
