"""Tell the workers that deliveries are due; WEBHOOKS_WAKEUP says how.

A wake-up is a hint and may be lost without harm (invariant 2): workers look at Postgres at least
once a second anyway, and with `poll` they only do that.

`rq`: one RQ job in Valkey (webhooks/outbox/hints.py). It alone needs the packages redis and rq.

`listen`: Postgres itself notifies workers of each commit (LISTEN and NOTIFY). Commits that notify
run one after another.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import psycopg
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction

from webhooks.postgres.sql import run

logger = logging.getLogger(__name__)

RELISTEN_SECONDS = 1.0

CHANNEL = "webhooks_wakeup"
NOTIFY_SQL = "SELECT pg_notify(%(channel)s, '')"


def listen(hear: Callable[[], None]) -> None:
    """Call `hear` for each notification of a commit, on a daemon thread, while this process lives."""
    threading.Thread(target=_listen, args=(hear,), name="listener", daemon=True).start()


def _listen(hear: Callable[[], None]) -> None:
    while True:
        try:
            connection.ensure_connection()
            connection.connection.execute(f"LISTEN {CHANNEL}")
            # For rows committed before it listened.
            hear()
            for _ in connection.connection.notifies():
                hear()
        except (DatabaseError, InterfaceError, psycopg.Error) as problem:
            logger.warning("Postgres does not answer (%s); polling.", type(problem).__name__)
            connection.close()
        time.sleep(RELISTEN_SECONDS)


@cache
def _hints() -> Any:
    # By name: without RQ's packages this module must load all the same.
    return import_module("webhooks.outbox.hints")


def nudge(*, force: bool = False) -> None:
    """Tell a worker that deliveries are due. Never raises, and waits for Postgres only."""
    if settings.WEBHOOKS_WAKEUP == "rq":
        _hints().nudge(force=force)
    elif settings.WEBHOOKS_WAKEUP == "listen":
        try:
            run(NOTIFY_SQL, {"channel": CHANNEL})
        except DatabaseError:
            logger.warning("A wake-up could not be sent.", exc_info=True)


def nudge_on_commit() -> None:
    """Tell a worker once the transaction is committed.

    With autocommit switched off by hand, Django runs no hooks on commit, so workers find the rows by
    polling. (`listen` does not need the hook.)
    """
    if settings.WEBHOOKS_WAKEUP == "listen":
        run(NOTIFY_SQL, {"channel": CHANNEL})
        return
    if connection.in_atomic_block or connection.get_autocommit():
        transaction.on_commit(nudge, robust=True)
