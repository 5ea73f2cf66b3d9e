"""Off for a person is off for his webhooks, within a second; what waits is kept (invariant 12)."""

import time

import pytest

from projects.models import User
from tests.webhooks.history import trigger
from tests.workers import running_worker, wait_for_heartbeats, wait_until
from webhooks import service
from webhooks.models import Delivery
from webhooks.workbench.receiver import HttpReceiver


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("empty_valkey")
def test_webhooks_of_a_deactivated_account_stop_and_go_on(
    user: User, other_user: User, receiver: HttpReceiver
) -> None:
    for owner in (user, other_user):
        service.create_webhook(
            owner, name=owner.username, url=f"{receiver.url}{owner.username}", events=["*"],
            retry_delay_seconds=1,
        )  # fmt: skip

    def received(owner: User) -> int:
        return sum(one.path == f"/{owner.username}" for one in receiver.requests)

    with running_worker(WEBHOOKS_ALLOWED_NETWORKS="127.0.0.0/8"):
        wait_for_heartbeats(1)
        trigger(user, 5)
        wait_until(lambda: received(user) == 5)

        User.objects.filter(pk=user.pk).update(is_active=False)
        time.sleep(1.0)  # what the promise allows
        before = received(user)
        trigger(user, 20)
        trigger(other_user, 5)
        wait_until(lambda: received(other_user) == 5)
        time.sleep(2.0)  # long enough for a worker that looks every second

        assert received(user) == before
        kept = Delivery.objects.filter(owner_id=user.pk, finished_at=None)
        assert kept.count() == 20

        User.objects.filter(pk=user.pk).update(is_active=True)
        wait_until(lambda: received(user) == before + 20, 10)
        wait_until(lambda: not kept.exists(), 10)
