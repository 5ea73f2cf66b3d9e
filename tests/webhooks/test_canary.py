"""The plugin that looks for leaked secrets finds them: planted ones, in every place it searches."""

import logging
from collections.abc import Callable, Iterator

import django_rq
import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from projects.models import Project, User
from tests import canary
from tests.workers import searched_log
from webhooks import service
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import Attempt, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver


@pytest.fixture
def leaks() -> Iterator[list[str]]:
    assert canary.leaks == []
    yield canary.leaks
    canary.leaks.clear()


def show(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.GET["secret"])


urlpatterns = [path("api/v1/webhooks/1/", show), path("api/v1/webhooks/1/rotate-secret", show)]


def test_secret_in_the_log_is_found(leaks: list[str]) -> None:
    logging.getLogger("anything").warning("made %s", canary.generate_marked_secret())

    assert len(leaks) == 1
    leaks.clear()


def test_secret_in_a_logged_exception_is_found(leaks: list[str]) -> None:
    try:
        raise ValueError(canary.generate_marked_secret())
    except ValueError:
        logging.getLogger("anything").exception("failed")

    assert len(leaks) == 1
    leaks.clear()


def test_secret_in_the_log_of_a_worker_is_found(leaks: list[str]) -> None:
    with searched_log() as log:
        log.write(f"made\n{canary.generate_marked_secret()}\n".encode())

    assert len(leaks) == 1
    leaks.clear()


def test_secret_in_the_database_is_found(
    leaks: list[str], make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(headers={"Authorization": canary.generate_marked_secret()})
    canary.search_database()
    assert leaks == []

    Webhook.objects.update(description=webhook.secret)
    canary.search_database()
    Webhook.objects.update(description="")
    webhook.secrets.update(value_encrypted=webhook.secret.encode())
    canary.search_database()

    assert [leak.split(":")[0] for leak in leaks] == [
        "table webhooks_webhook", "table webhooks_signingsecret",
    ]  # fmt: skip
    webhook.secrets.all().delete()
    leaks.clear()


def test_secret_in_valkey_is_found(leaks: list[str]) -> None:
    queue = django_rq.get_queue("default")
    job = queue.enqueue("webhooks.jobs.dispatch", canary.generate_marked_secret())
    try:
        canary.search_valkey()
        assert leaks
    finally:
        job.delete()
        leaks.clear()


@pytest.mark.urls("tests.webhooks.test_canary")
def test_secret_in_an_answer_is_found_but_for_create_and_rotate(
    leaks: list[str], client: Client
) -> None:
    secret = canary.generate_marked_secret()

    client.post(f"/api/v1/webhooks/1/rotate-secret?secret={secret}")
    assert leaks == []
    client.get("/api/v1/webhooks/1/", {"secret": secret})
    client.get("/api/v1/webhooks/1/rotate-secret", {"secret": secret})

    assert len(leaks) == 2
    leaks.clear()


@pytest.mark.django_db(transaction=True)
def test_life_of_a_webhook_leaves_no_secret_behind(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    """The plugin searches everything when this has run."""
    with HttpReceiver() as receiver:
        secret = canary.generate_marked_secret()
        webhook = make_webhook(url=receiver.url, headers={"Authorization": secret}, ed25519=True)
        receiver.script(Behaviour(), Behaviour(status=500), Behaviour(mode="reset"))
        for _ in range(3):
            Project.objects.create(owner=user, name="P")
            service.rotate_secret(webhook)
            run_until_idle()
        service.revoke_secret(webhook)
        service.update_webhook(webhook, headers={"X-Token": secret})

    assert Attempt.objects.count() == 3
