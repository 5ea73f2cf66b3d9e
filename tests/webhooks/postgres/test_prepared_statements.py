"""Frequent statements are planned once, and their plans stay efficient as tables grow."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from psycopg import _queries

from projects.models import Project, User
from sessions_app.models import Session
from tests.concurrency import another_connection
from tests.webhooks.claiming import claim_due
from tests.webhooks.history import trigger
from webhooks.dispatch import life
from webhooks.dispatch.desk import with_fresh_connection
from webhooks.dispatch.discovery import LOOK_ROWS
from webhooks.ids import new_id
from webhooks.models import Webhook
from webhooks.postgres.sql import run, set_up_connection

OFTEN = 20
"""psycopg prepares after five executions, and Postgres settles on a plan after five more."""

SET_UP = {
    "enable_seqscan": "off", "enable_sort": "off", "enable_incremental_sort": "off", "jit": "off",
    "idle_in_transaction_session_timeout": "5s", "lock_timeout": "5s", "application_name": "worker",
}  # fmt: skip


def ask(sql: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])


@pytest.mark.django_db
def test_outbox_is_prepared_after_a_few_events(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook()

    for _ in range(OFTEN):
        trigger(user, 1)

    # Otherwise psycopg keeps the text of every statement of Django's.
    assert connection.connection.prepare_threshold is None
    sql = "SELECT sum(generic_plans) FROM pg_prepared_statements WHERE statement LIKE '%new_delivery%'"
    assert ask(sql) > 0


@pytest.mark.django_db
def test_long_statement_is_not_parsed_at_each_execution(
    user: User, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook()
    trigger(user, 1)
    parsed: list[bytes] = []
    split = _queries._split_query

    def watched(query: bytes, *args: Any, **options: Any) -> Any:
        parsed.append(query)
        return split(query, *args, **options)

    monkeypatch.setattr(_queries, "_split_query", watched)
    trigger(user, 1)
    claim_due(new_id(), limit=1, room_of=lambda *_: 1)

    assert parsed == []


def test_first_statement_of_a_connection_that_may_not_prepare(
    transactional_db: None, settings: Any
) -> None:
    settings.DATABASE_PREPARED_STATEMENTS = False
    connection.close()

    assert run("SELECT 1::int8", {}).fetchall() == [(1,)]


def set_lengths(name: int, email: int) -> None:
    with another_connection() as other:
        other.execute(f"ALTER TABLE projects_project ALTER name TYPE varchar({name})")
        other.execute(f"ALTER TABLE projects_user ALTER email TYPE varchar({email})")


def write_often(user: User) -> None:
    project = Project.objects.create(owner=user, name="P")
    for number in range(OFTEN):
        project.name = user.name = f"N{number}"
        project.save()
        user.save()
        Project.objects.create(owner=user, name="P")
        User.objects.create(username=new_id(), email=f"{new_id()}@example.com")
        Session.objects.create(owner=user, project=project, title="S")


def test_saves_continue_while_a_migration_lengthens_columns(
    transactional_db: None, user: User
) -> None:
    write_often(user)
    assert ask("SELECT count(*) FROM pg_prepared_statements WHERE generic_plans > 0") > 4
    try:
        set_lengths(name=300, email=300)
        write_often(user)
    finally:
        set_lengths(name=200, email=254)


@pytest.fixture
def own_connection(transactional_db: None) -> Iterator[None]:
    connection.close()
    yield
    connection.close()


def test_claim_planned_for_an_empty_table_reads_few_rows_when_it_has_grown(
    own_connection: None, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"])
    worker = new_id()
    life.register_worker(worker)
    set_up_connection("worker")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE webhooks_delivery, webhooks_event")
    for _ in range(OFTEN):
        trigger(user, 1)
        assert len(claim_due(worker, limit=9, room_of=lambda *_: 9).deliveries) == 1
    trigger(user, 2000)
    scans, rows = scans_and_rows()

    claim = claim_due(worker, limit=9, room_of=lambda *_: 9)

    assert len(claim.deliveries) == 9
    scans_after, rows_after = scans_and_rows()
    assert scans_after == scans
    assert rows_after < rows + LOOK_ROWS + 100


@pytest.mark.django_db
def test_worker_sets_up_a_connection_that_binds_on_the_server() -> None:
    """As a project may want of Django; a prepared statement is one statement."""
    wrapper = connection.copy()
    wrapper.settings_dict["OPTIONS"]["server_side_binding"] = True
    try:
        set_up_connection("worker", wrapper)
        with wrapper.cursor() as cursor:
            cursor.execute(f"SELECT {', '.join(f'current_setting({name!r})' for name in SET_UP)}")
            assert dict(zip(SET_UP, cursor.fetchone(), strict=True)) == SET_UP
    finally:
        wrapper.close()


@pytest.mark.django_db
def test_events_are_stored_where_queries_are_logged_and_bound_on_the_server(
    user: User, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook()
    monkeypatch.setattr(connection.features, "uses_server_side_binding", True)

    with CaptureQueriesContext(connection):
        trigger(user, 1)

    assert ask("SELECT count(*) FROM webhooks_delivery") == 1


def test_table_altered_under_a_worker_costs_one_try(
    own_connection: None, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"])
    worker = new_id()
    life.register_worker(worker)

    def claim() -> int:
        return len(claim_due(worker, limit=9, room_of=lambda *_: 9).deliveries)

    for _ in range(OFTEN):
        trigger(user, 1)
        assert claim() == 1
    alter("text")
    try:
        trigger(user, 1)
        with pytest.raises(DatabaseError, match="cached plan"):
            with_fresh_connection("worker", claim)
        assert with_fresh_connection("worker", claim) == 1
    finally:
        alter("varchar(100)")


def alter(kind: str) -> None:
    with another_connection() as other:
        other.execute(f"ALTER TABLE webhooks_event ALTER COLUMN type TYPE {kind}")


def scans_and_rows() -> tuple[int, int]:
    """Return the number of sequential scans and of rows read by an index."""
    ask("SELECT 1 FROM pg_stat_force_next_flush()")
    ask("SELECT 1 FROM pg_stat_clear_snapshot()")
    table = "FROM pg_stat_user_tables WHERE relname = 'webhooks_delivery'"
    return ask(f"SELECT seq_scan {table}"), ask(f"SELECT idx_tup_fetch {table}")


@pytest.mark.django_db
def test_tables_of_the_outbox_have_no_checks() -> None:
    # Postgres reads and prepares each one anew in every statement that writes a row.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = ANY("
            "'{webhooks_event, webhooks_delivery, webhooks_attempt}'::regclass[])"
        )
        assert cursor.fetchall() == []
