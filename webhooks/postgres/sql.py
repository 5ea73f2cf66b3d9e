"""The one door to what Django's connection does not do by itself: prepared statements, settings.

Django binds parameters on the client, so that Postgres parses and plans every statement anew; for
the outbox and for the claim that takes longer than the work. Statements that run all the time go
through run(), which prepares them.

What is prepared or SET lives in one backend of Postgres. A pooler that lends a backend for a
transaction leaves it there for strangers: a client would run another's statement, and lose events
without an error. So nothing is kept in a session that may not be ours alone (has_session_state).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, ProgrammingError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger(__name__)

EXECUTIONS_BEFORE_PREPARING = 5


def run(
    sql: str,
    parameters: Mapping[str, Any] | Sequence[Any],
    using: str = DEFAULT_DB_ALIAS,
    *,
    is_binary: bool = True,
) -> Any:
    """Run one statement and return its cursor; raises Django's database errors.

    Django's converters of fields expect what is not binary.
    """
    connection: Any = connections[using]
    # What connection.cursor() does, but with a cursor that leaves the parameters to the server.
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    may_prepare = has_session_state(connection)
    raw = connection.connection
    prepared = psycopg.Cursor(raw)
    # Half the bytes of a payload on the way, and none of the work of writing it as hex.
    if is_binary:
        prepared.format = psycopg.pq.Format.BINARY
    # Django's own wrapper: it translates errors, and logs and counts queries where that is asked.
    cursor = connection._prepare_cursor(prepared)
    if may_prepare:
        # Only for now: psycopg would keep the text of Django's statements too, values and all.
        raw.prepare_threshold = EXECUTIONS_BEFORE_PREPARING
    try:
        cursor.execute(sql, parameters)
    finally:
        raw.prepare_threshold = None
    return cursor


def sqlstate(problem: BaseException) -> str | None:
    """Return the SQLSTATE of one of Django's database errors, whose text depends on lc_messages.

    None where Postgres sent none, as when the connection broke.
    """
    return getattr(problem.__cause__, "sqlstate", None)


# What is found out once about each new connection.


class Facts(NamedTuple):
    """What a new connection is asked, in one round trip before the first use that needs it."""

    backend_pid: int


FACTS_SQL = "SELECT pg_backend_pid()"

_facts: WeakKeyDictionary[psycopg.Connection[Any], Facts] = WeakKeyDictionary()


def look_at(wrapper: BaseDatabaseWrapper) -> Facts:
    """Return the facts about Django's connection, which is opened where it is not.

    Raises Django's database errors.
    """
    wrapper.ensure_connection()
    raw = wrapper.connection
    facts = _facts.get(raw)
    if facts is None:
        # Not with a cursor of Django's: this is no query of the caller's, to be logged and counted.
        with wrapper.wrap_database_errors, psycopg.Cursor(raw) as cursor:
            facts = _facts[raw] = Facts._make(cursor.execute(FACTS_SQL).fetchone() or ())
    return facts


def is_pooled(wrapper: BaseDatabaseWrapper | None = None) -> bool:
    """Say whether a pooler stands between us and Postgres, for Django's default connection or another.

    The process id for cancelling, sent when the connection begins, is the backend's own; poolers
    that change backends make one up (PgBouncer a random one), however few backends they have.
    In session mode they do, too: doing without a session is right there as well.
    """
    wrapper = wrapper or connection
    facts = look_at(wrapper)
    return bool(wrapper.connection.info.backend_pid != facts.backend_pid)


def has_session_state(wrapper: BaseDatabaseWrapper | None = None) -> bool:
    """Say whether what is prepared, SET or locked in a session is seen by this thread alone.

    Of Django's default connection or another. False behind a pooler, and everywhere with
    DATABASE_PREPARED_STATEMENTS=0.
    """
    return settings.DATABASE_PREPARED_STATEMENTS and not is_pooled(wrapper)


# The limits of a worker's connections.

# Rows are found by an index only: a prepared plan lives on while its table grows, and one made for
# an empty table would read the whole of it until Postgres next gathers statistics. (A table without
# an index counts as so expensive then that its scan would be compiled.)
# A worker that freezes in a transaction must not keep its locks, and one that finds a row locked
# must not wait in silence until it counts as dead.
SET_UP_SQL = """
SET enable_seqscan = off;
SET jit = off;
SET idle_in_transaction_session_timeout = '5s';
SET lock_timeout = '5s';
SELECT set_config('application_name', %s, false)
"""
LIMITS_SQL = """
SELECT set_config('idle_in_transaction_session_timeout', '5s', true),
       set_config('lock_timeout', '5s', true)
"""


def set_up_connection(name: str) -> None:
    """Give this thread's connection the limits of a worker's, and a name to end it by.

    Behind a pooler it has neither: see limited_transaction().
    """
    if has_session_state():
        with connection.cursor() as cursor:
            cursor.execute(SET_UP_SQL, [name])


@contextmanager
def limited_transaction() -> Iterator[None]:
    """A worker's atomic(): Postgres ends it where the worker freezes, behind a pooler as well."""
    with transaction.atomic():
        if not has_session_state():
            run(LIMITS_SQL, {})
        yield


FIND_CONNECTIONS_SQL = """
SELECT pid FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = ANY(%(names)s)
"""
END_SQL = "SELECT pg_terminate_backend(%(pid)s, 1000)"


def end_connections(names: list[str]) -> None:
    """End every connection of these names, with what it has locked and not committed.

    What Postgres refuses to end, as another role's connections, is logged and goes on. Connections
    through a pooler have no name, and are not found.
    """
    for (pid,) in run(FIND_CONNECTIONS_SQL, {"names": names}).fetchall():
        try:
            run(END_SQL, {"pid": pid})
        except ProgrammingError as refusal:
            logger.warning("Backend %d of a dead worker could not be ended: %s", pid, refusal)
