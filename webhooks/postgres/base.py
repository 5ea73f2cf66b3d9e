"""Django's Postgres backend, adapted to transaction poolers and to migrations under load."""

from typing import Any

from django.db.backends.postgresql.base import DatabaseWrapper as PostgresWrapper
from django.db.backends.postgresql.schema import DatabaseSchemaEditor

from webhooks.postgres.sql import is_pooled

LOCK_TIMEOUT = "150ms"
"""How long a migration waits for a lock, because writers that queue behind it wait as long.

A migration that takes two locks in turn delays writers for at most twice this time.
"""


class LockLimitedSchemaEditor(DatabaseSchemaEditor):
    """A schema editor that fails instead of delaying writers for long; `migrate` tries again.

    A non-atomic migration, such as a concurrent index build, waits without a limit: it does not
    delay writers, and a failure would leave it half done.
    """

    def __enter__(self) -> Any:
        editor = super().__enter__()
        if self.atomic_migration:
            self.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        return editor


class DatabaseWrapper(PostgresWrapper):
    """Django's wrapper with limited lock waits in migrations and pooler-safe chunked cursors."""

    SchemaEditorClass = LockLimitedSchemaEditor

    def chunked_cursor(self) -> Any:
        """Return a server-side cursor, or a client-side one in autocommit behind a pooler.

        In autocommit, a server-side cursor outlives its transaction and belongs to a session. A
        pooler may send the next fetch to another backend, which does not have the cursor or has
        another client's cursor of the same name.
        """
        if self.get_autocommit() and is_pooled(self):
            return self.cursor()
        return super().chunked_cursor()
