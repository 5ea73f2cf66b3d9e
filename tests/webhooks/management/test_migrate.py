"""Migrations under load: a migration that waits for a lock must not block writers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection

from tests.concurrency import another_connection
from tests.workers import running, searched_log
from webhooks.management.commands import migrate

pytestmark = pytest.mark.django_db(transaction=True)

WRITE = "UPDATE webhooks_event SET type = type WHERE false"
"""A statement that takes the same lock as a save."""
TRIES = 3


@pytest.fixture(autouse=True)
def pending_migration() -> Iterator[None]:
    """Undo 0004, which adds a column to the events."""
    call_command("migrate", "webhooks", "0003", verbosity=0)
    yield
    call_command("migrate", verbosity=0)


@contextmanager
def reading() -> Iterator[psycopg.Connection[Any]]:
    """Read the events in a transaction that stays open until the block ends."""
    with another_connection() as reader:
        reader.execute("SELECT FROM webhooks_event")
        yield reader


def has_column() -> bool:
    with connection.cursor() as cursor:
        columns = connection.introspection.get_table_description(cursor, "webhooks_event")
    return "is_self_reported" in [column.name for column in columns]


def tries(log: IO[bytes]) -> int:
    # Without moving the place where the command goes on writing.
    written = os.pread(log.fileno(), 1_000_000, 0)
    return written.count(b"A table is in use; trying again")


def test_writes_continue_while_a_migration_waits_for_a_reader() -> None:
    with (
        searched_log() as log,
        reading() as reader,
        another_connection() as writer,
        running("manage.py", "migrate", stdout=log, stderr=log) as migration,
    ):
        writer.autocommit = True
        # Much longer than any wait for the migration, much shorter than any for the reader.
        writer.execute("SET lock_timeout = '2s'")
        while tries(log) < TRIES:
            assert migration.poll() is None
            writer.execute(WRITE)
        assert not has_column()

        reader.rollback()

        assert migration.wait(60) == 0
    assert has_column()


def test_migration_gives_up_with_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "PATIENCE_SECONDS", 0)

    with reading(), pytest.raises(CommandError, match="end long transactions"):
        call_command("migrate", verbosity=0)

    assert not has_column()


def test_other_errors_of_a_migration_are_not_tried_again() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE webhooks_event ADD COLUMN is_self_reported int")

    try:
        with pytest.raises(ProgrammingError):
            call_command("migrate", verbosity=0)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE webhooks_event DROP COLUMN is_self_reported")
