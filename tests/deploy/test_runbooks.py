"""docs/runbooks.md: its commands run, in the order of the page, and do what the page says."""

import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.conf import settings
from django.db import connection

from config import embedded
from config.services import BASE_DIR
from projects.models import User
from tests import clusters
from tests.clusters import Cluster, connected_to
from tests.concurrency import another_connection
from tests.webhooks.history import finish, make_older, trigger
from tests.workers import environment, free_port, running_worker, wait_until
from webhooks.models import Delivery, Event, Pause, Webhook
from webhooks.postgres import horizon
from webhooks.workbench.receiver import HttpReceiver

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

MakeWebhook = Callable[..., Webhook]
Walk = Callable[..., str]

PAGE = (BASE_DIR / "docs" / "runbooks.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(title: str) -> list[str]:
    return BLOCK.findall(SECTIONS[title])


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    """Run commands where the site runs, up to the first that fails, and return what they print."""
    (tmp_path / "manage.py").symlink_to(BASE_DIR / "manage.py")
    programs = [str(clusters.binaries()), str(Path(sys.executable).parent), os.environ["PATH"]]

    def run(*commands: str, **variables: str) -> str:
        assert commands
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
            cwd=tmp_path,
            env=environment(PATH=":".join(programs), LC_ALL="C", **variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def url_of(cluster: Cluster, database: str) -> str:
    return f"postgres:///{database}?host={cluster.home}&user={embedded.DATABASE}"


def test_the_page_has_a_section_for_each_emergency() -> None:
    assert set(SECTIONS) == {
        "Deliveries are late",
        "Something wrong is being sent",
        "Back up and restore",
        "Promote the standby",
        "Upgrade, and go back",
        "Change the encryption keys",
        # The fault itself: tests/webhooks/postgres/test_faults.py.
        "The disk of Postgres is full",
        "An ordered webhook stands still",
        "Valkey is gone",
    }
    alerts = (BASE_DIR / "deploy" / "prometheus" / "alerts.yml").read_text()
    assert all(f"alert: {name}\n" in alerts for name in re.findall(r"alert `(\w+)`", PAGE))


def test_late_deliveries_are_explained(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, walk: Walk
) -> None:
    webhook = make_webhook(url=receiver.url, events=["project.deleted"])
    trigger(user, 2)
    with running_worker():
        wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() == 2)

        said = walk(*blocks("Deliveries are late"))

    assert "1 worker is alive" in said
    assert webhook.public_id in said or webhook.name in said


def test_everything_stops_and_goes_on(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, walk: Walk
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    stop, resume = blocks("Something wrong is being sent")

    walk(stop)

    assert Pause.objects.get().reason == "Receivers report wrong amounts"
    trigger(user, 1)
    walk(resume)
    assert not Pause.objects.exists()
    with running_worker():
        receiver.wait_for(1)


def test_backup_is_restored_beside_the_old_database(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, walk: Walk
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    saved = trigger(user, 3)
    here = Cluster(Path(clusters.host()))
    dump, *restore = blocks("Back up and restore")

    walk(dump)
    trigger(user, 1)
    try:
        said = walk(*restore, RESTORED_URL=url_of(here, "restored"))

        assert "No worker is running" in said
        assert "backlog" in said
        with connected_to(here, "restored"):
            assert list(Event.objects.filter(type="project.deleted").order_by("id")) == saved
            with running_worker():
                wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists())
        assert {one.event_id for one in receiver.requests} == {one.public_id for one in saved}
    finally:
        with here.connect() as maintenance:
            maintenance.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")


def test_standby_takes_over(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, walk: Walk
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    trigger(user, 2)
    name = connection.settings_dict["NAME"]
    with clusters.folder() as home, clusters.standby(home) as standby:
        said = walk(*blocks("Promote the standby"), STANDBY_URL=url_of(standby, name))

        assert "they precede all new ones" in said
        with connected_to(standby, name), running_worker():
            trigger(user, 1)
            wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() == 3)


def test_keys_are_changed(make_webhook: MakeWebhook, walk: Walk) -> None:
    webhook = make_webhook()
    old = ",".join(b64encode(key).decode() for key in settings.WEBHOOKS_ENCRYPTION_KEYS)
    before = bytes(webhook.secrets.values_list("value_encrypted", flat=True).get())

    said = walk(*blocks("Change the encryption keys"), WEBHOOKS_ENCRYPTION_KEYS=old)

    assert bytes(webhook.secrets.values_list("value_encrypted", flat=True).get()) != before
    # The last look is with the new key alone.
    assert "no key in WEBHOOKS_ENCRYPTION_KEYS" not in said


def test_disk_is_looked_at_and_history_is_shortened(
    user: User, make_webhook: MakeWebhook, walk: Walk
) -> None:
    make_webhook(events=["project.deleted"])
    trigger(user, 2)
    finish()
    make_older(timedelta(days=40))
    trigger(user, 1)

    said = walk(*blocks("The disk of Postgres is full"))

    assert "webhooks_event" in said
    assert "slot_name" in said
    assert Delivery.objects.count() == 1


def test_transaction_that_holds_an_ordered_webhook_is_ended(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, walk: Walk
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"], ordered=True)
    look, end = blocks("An ordered webhook stands still")
    with another_connection() as other, pytest.raises(psycopg.OperationalError):
        other.execute("UPDATE projects_user SET first_name = 'open' WHERE id = %s", [user.pk])
        trigger(user, 1)
        pid = other.info.backend_pid
        wait_until(lambda: (held := horizon.holder()) is not None and held.seconds > 5)

        said = walk(look)

        assert f"{pid}" in said
        assert str(Delivery.objects.get().pk) in said
        walk(end, PID=str(pid))
        with running_worker():
            receiver.wait_for(1)
        other.execute("SELECT 1")


def test_upgrade_and_lost_valkey_need_no_repair(walk: Walk) -> None:
    walk(*blocks("Upgrade, and go back"))

    said = walk(*blocks("Valkey is gone"), REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")

    assert "Valkey" in said
