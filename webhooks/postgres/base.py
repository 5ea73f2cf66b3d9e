"""Django's Postgres backend, safe behind a transaction pooler and beside traffic."""

from typing import Any

from django.db.backends.postgresql.base import DatabaseWrapper as PostgresWrapper
from django.db.backends.postgresql.schema import DatabaseSchemaEditor

from webhooks.postgres.sql import is_pooled

LOCK_TIMEOUT = "150ms"
"""How long a migration waits for a lock, since whoever comes behind it in the queue waits as long.

A migration that needs two locks one after the other holds writers up for twice as long at worst.
"""


class LockLimitedSchemaEditor(DatabaseSchemaEditor):
    """A schema editor that fails rather than hold writers up; `migrate` tries again.

    A migration that is not atomic, such as an index built concurrently, waits without a limit: it
    holds no writer up, and half of it would remain.
    """

    def __enter__(self) -> Any:
        editor = super().__enter__()
        if self.atomic_migration:
            self.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        return editor


class DatabaseWrapper(PostgresWrapper):
    """Django's own but for the two things above."""

    SchemaEditorClass = LockLimitedSchemaEditor

    def chunked_cursor(self) -> Any:
        """Return a cursor on the server, or an ordinary one where it would outlive its transaction.

        Such a cursor belongs to a session: behind a pooler the next chunk is asked of a backend
        that does not have it, or that has another client's of the same name.
        """
        if self.get_autocommit() and is_pooled(self):
            return self.cursor()
        return super().chunked_cursor()
