"""Migrations that run while the product saves."""

import threading
from collections.abc import Iterator

import pytest
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor
from django_migration_linter import MigrationLinter

from config.services import BASE_DIR
from projects.models import User
from tests.webhooks.history import DELETED
from webhooks import service

pytestmark = pytest.mark.django_db(transaction=True)

OLD_INSERT = """
INSERT INTO webhooks_event
    (id, type, owner_id, payload, idempotency_key, body_hash, fanout_count, object_reference)
VALUES (gen_random_uuid(), 'project.deleted', NULL, '', %s, NULL, 0, '')
    ON CONFLICT (owner_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
"""
"""As the release before stores an event."""
WAITING_SQL = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND state = 'active' AND wait_event_type = 'Lock'
   AND query LIKE '%%CONCURRENTLY%%'
"""


OURS = ("webhooks", "projects", "sessions_app")


def test_linter_finds_no_migration_that_stops_writers() -> None:
    linter = MigrationLinter(
        path=str(BASE_DIR),
        include_apps=list(OURS),
        # Of before the first release: it makes an index of a table that is empty then.
        ignore_name=["0002_order_by_transaction"],
        no_cache=True,
        quiet=["ok", "ignore"],
    )

    linter.lint_all_migrations()

    assert not linter.has_errors, "see the captured output"
    assert linter.nb_warnings == 0, "see the captured output"
    assert linter.nb_valid >= 15


def migrate(name: str | None = None) -> None:
    """Go to a migration of webhooks, or to the last."""
    executor = MigrationExecutor(connection)
    last = executor.loader.graph.leaf_nodes("webhooks")
    executor.migrate([("webhooks", name)] if name else last)


@pytest.fixture
def before(user: User) -> Iterator[None]:
    migrate("0004_self_reported_events")
    yield
    migrate()


def _migrate_apart() -> None:
    try:
        migrate()
    finally:
        connections.close_all()


@pytest.mark.usefixtures("before")
def test_no_save_waits_for_the_new_index(user: User) -> None:
    other = connection.copy()
    migration = threading.Thread(target=_migrate_apart)
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(OLD_INSERT, ["open"])
            migration.start()
            while True:
                with connection.cursor() as mine:
                    mine.execute(WAITING_SQL)
                    if mine.fetchone() == (1,):
                        break
            with connection.cursor() as mine:
                mine.execute("SET lock_timeout = '1s'")
                mine.execute(OLD_INSERT, ["meanwhile"])
                mine.execute("SET lock_timeout = 0")
            assert migration.is_alive()
            cursor.execute("COMMIT")
    finally:
        other.close()
        migration.join(30)

    assert not migration.is_alive()
    assert service.trigger_event("project.deleted", user, DELETED, "k")
