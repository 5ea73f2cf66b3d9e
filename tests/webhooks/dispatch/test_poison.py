"""What Postgres refuses of one tenant is his alone, and what a stranger has locked is not for ever."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.db import connection

from projects.models import User
from tests.concurrency import in_thread
from tests.webhooks.dispatch.test_one_tenant import locked, running_engine, statuses
from tests.webhooks.history import trigger
from tests.workers import wait_until
from webhooks.dispatch.engine import Engine
from webhooks.models import Attempt, Delivery, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

MakeWebhook = Callable[..., Webhook]


@contextmanager
def refused(table: str, condition: str) -> Iterator[None]:
    """Have Postgres refuse to store rows of a table."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'refused' USING ERRCODE = '22000'; END $$"
        )
        cursor.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW "
            f"WHEN ({condition}) EXECUTE FUNCTION refuse()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION refuse() CASCADE")


def test_result_that_postgres_refuses_in_any_form_holds_up_no_other(
    user: User, other_user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    make_webhook(owner=other_user, url=receiver.url, events=["project.deleted"])
    trigger(user, 1)
    bad = Delivery.objects.get()
    with refused("webhooks_attempt", f"NEW.delivery_id = '{bad.id}'"), running_engine():
        receiver.wait_for(1)
        trigger(other_user, 5)
        receiver.wait_for(6)
        wait_until(lambda: statuses(other_user) == {"SUCCESS"})
    assert len(receiver.requests) == 6


def test_health_that_cannot_be_recorded_keeps_back_no_other(
    user: User, other_user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    bad = make_webhook(url=receiver.url, events=["project.deleted"])
    other = make_webhook(owner=other_user, url=receiver.url, events=["project.deleted"])
    receiver.behaviour = Behaviour(status=500)
    trigger(user, 1)
    trigger(other_user, 1)
    with refused("webhooks_webhook", f"NEW.id = '{bad.id}'"), running_engine():
        wait_until(lambda: Webhook.objects.get(id=other.id).breaker_failures == 1)
        wait_until(lambda: Attempt.objects.count() == 2)


def test_stop_does_not_wait_for_a_row_for_as_long_as_a_stranger_has_it_locked(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    receiver.behaviour = Behaviour(delay_seconds=0.5)
    trigger(user, 1)
    engine = Engine()
    thread = in_thread(engine.run)
    receiver.wait_for(1)
    with locked("webhooks_delivery"):
        engine.stop()
        thread.join(15)
        is_over = not thread.is_alive()
    thread.join()
    assert is_over
