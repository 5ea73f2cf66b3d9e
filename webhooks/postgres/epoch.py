"""Maintain the table of epochs: the clusters, in order, whose transaction ids are stored.

Every statement that stores or compares a transaction id calls webhooks_current_epoch() (migration
0006). Until an epoch is recorded, all sessions compute the same number, only more slowly. Recording
needs a transaction of its own: an epoch that waited for a caller's commit would block every session
that stores events. A crash here loses nothing.
"""

from typing import Any

import psycopg

IS_NEW_SQL = """
SELECT webhooks_examine_epoch() > coalesce(max(number), 0) FROM webhooks_epoch
"""
RECORD_SQL = """
INSERT INTO webhooks_epoch (number, cluster)
SELECT webhooks_examine_epoch(), webhooks_cluster() ON CONFLICT DO NOTHING
"""


def record(raw: psycopg.Connection[Any]) -> bool:
    """Record the current epoch if it is new, and return whether it was.

    The connection must be outside any transaction. Does nothing on a standby and before the
    migration. Safe to run in many processes at once. Raises psycopg's errors.
    """
    with psycopg.Cursor(raw) as cursor:
        try:
            row = cursor.execute(IS_NEW_SQL).fetchone()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable):
            return False
        return bool(row and row[0]) and cursor.execute(RECORD_SQL).rowcount == 1
