"""The doctor counts and names what a failover to a standby that was behind has lost."""

from collections.abc import Callable

import pytest
from django.db import connection

from projects.models import Project, User
from tests import clusters
from tests.clusters import connected_to
from tests.webhooks.history import finish, trigger
from tests.webhooks.management.conftest import Run
from tests.workers import environment
from webhooks.models import Webhook
from webhooks.postgres import epoch

pytestmark = pytest.mark.django_db(transaction=True)


def test_tail_that_a_standby_never_got_is_counted_and_named(
    run: Run, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.*"])
    name, former = connection.settings_dict["NAME"], environment()["DATABASE_URL"]
    trigger(user, 7)
    with clusters.folder() as home, clusters.standby(home) as promoted:
        tried = trigger(user, 2)
        finish()
        lost = tried + trigger(user, 3)
        with connected_to(promoted, name):
            with promoted.connect() as maintenance:
                maintenance.execute("SELECT pg_promote()")
            Project.objects.create(owner=user, name="After the failover")
            assert epoch.record(connection.connection)

            found = run("doctor", "--former-primary", former)
            named = run("doctor", "--former-primary", former, "--faults")
            checked = run("doctor", "--quick", "--fail-level", "never")

    assert found.code == 1
    assert "that are lost: 5, created from" in found.out
    assert "receivers may have got 2 of them" in found.out
    assert [line.split("\t")[0] for line in named.out.splitlines()] == [
        event.public_id for event in reversed(lost)
    ]
    assert "warning  failover    This server was promoted at" in checked.out


def test_nothing_is_lost_where_the_standby_has_it_all(
    run: Run, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.*"])
    trigger(user, 7)

    found = run("doctor", "--former-primary", environment()["DATABASE_URL"])

    assert (found.code, found.out) == (
        0,
        "ok       failover    Every event of the former primary is here.\n",
    )


def test_former_primary_that_is_away_is_an_error_without_its_password(run: Run) -> None:
    found = run("doctor", "--former-primary", "postgres://ada:canary@127.0.0.1:1/n")

    assert found.code == 1
    assert "cannot be read" in found.err
    assert "canary" not in found.out + found.err
