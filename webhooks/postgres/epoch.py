"""Keep the table of epochs: which cluster's transaction ids are stored, one after the other.

Postgres names the current epoch by itself, in every statement that stores or compares a transaction
id (webhooks_current_epoch(), migration 0006); until it is recorded everybody comes to the same
number, only more slowly. Recording needs a transaction of its own, that of no caller: an epoch that
waits for somebody's commit would hold up all who store events. A crash here loses nothing.
"""

from typing import Any

import psycopg

WANTED_SQL = """
SELECT webhooks_examine_epoch() > coalesce(max(number), 0) FROM webhooks_epoch
"""
RECORD_SQL = """
INSERT INTO webhooks_epoch (number, cluster)
SELECT webhooks_examine_epoch(), webhooks_cluster() ON CONFLICT DO NOTHING
"""


def record(raw: psycopg.Connection[Any]) -> bool:
    """Record the current epoch where it is a new one; returns whether it was.

    For a connection outside any transaction; on a standby, or before the migration, nothing
    happens. Any number of processes may do it at once. Raises psycopg's errors.
    """
    with psycopg.Cursor(raw) as cursor:
        try:
            wanted = cursor.execute(WANTED_SQL).fetchone()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable):
            return False
        return bool(wanted and wanted[0]) and cursor.execute(RECORD_SQL).rowcount == 1
