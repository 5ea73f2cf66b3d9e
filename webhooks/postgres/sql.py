"""Use features of Postgres that Django's connection lacks: prepared statements, session settings.

Django binds parameters on the client, so that Postgres parses and plans every execution; for the
outbox and the claim that takes longer than the execution itself. Frequent statements use run(),
which prepares them.

Prepared statements and SET values belong to one backend of Postgres. A transaction pooler lends
that backend to other clients: a client could run another client's statement and lose events without
an error. So this module keeps no state in a session that may be shared (has_session_state()).
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from django.conf import settings
from django.db import (
    DEFAULT_DB_ALIAS,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger(__name__)

EXECUTIONS_BEFORE_PREPARING = 5


@cache
def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """Return a constant statement as Postgres takes it, with $1 for %(name)s, and the names in order.

    psycopg does the same, but for a statement of more than 4 KB anew at each execution, which takes
    longer than all else it does for it.
    """
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match[1], len(names) + 1)}"

    return re.sub(r"%\((\w+)\)s", number, sql).replace("%%", "%"), tuple(names)


def run(
    sql: str,
    parameters: Mapping[str, Any] | Sequence[Any],
    *,
    is_binary: bool = True,
) -> Any:
    """Run one statement with server-side parameters and return its cursor.

    Named parameters are for constant statements only, which are kept as Postgres takes them. Prepares
    the statement after a few executions if the session allows it. Set `is_binary` to False if Django's
    field converters read the result: they expect the text format. Raises Django's database errors.
    """
    connection: Any = connections[DEFAULT_DB_ALIAS]
    # The same steps as connection.cursor(), but the cursor binds parameters on the server.
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    may_prepare = has_session_state(connection)
    raw = connection.connection
    prepared: psycopg.Cursor[Any]
    if isinstance(parameters, Mapping):
        sql, names = numbered(sql)
        parameters = [parameters[name] for name in names]
        prepared = psycopg.RawCursor(raw)
    else:
        prepared = psycopg.Cursor(raw)
    # Text format would send a payload as hex: twice the bytes, and the work to convert them.
    if is_binary:
        prepared.format = psycopg.pq.Format.BINARY
    # Django's wrapper translates errors, and logs and counts queries if configured. Where the project
    # has server_side_binding, its log would write the statement anew, with Django's placeholders.
    is_rewritten = connection.features.uses_server_side_binding
    cursor = (connection.make_cursor if is_rewritten else connection._prepare_cursor)(prepared)
    if may_prepare:
        # Reset below: otherwise psycopg would store the texts of Django's statements, with values.
        raw.prepare_threshold = EXECUTIONS_BEFORE_PREPARING
    try:
        cursor.execute(sql, parameters)
    finally:
        raw.prepare_threshold = None
    return cursor


def query(sql: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None) -> list[Any]:
    """Run one statement as Django does, with client-side parameters, and return all its rows.

    Postgres plans it for these very values, so that a condition on a null parameter costs nothing.
    Raises Django's database errors.
    """
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def database_now() -> datetime:
    """Return the time by the clock of the database, for moments that its statements compare.

    The clock of this machine may be another.
    """
    row = run("SELECT extract(epoch FROM clock_timestamp())::float8", {}).fetchone()
    return datetime.fromtimestamp(row[0], UTC)


def sqlstate(problem: BaseException) -> str | None:
    """Return the SQLSTATE of a Django database error, or None if Postgres sent none.

    Use it instead of the error's text, which depends on lc_messages. A broken connection has none.
    """
    return getattr(problem.__cause__, "sqlstate", None)


def took_too_long(problem: BaseException) -> bool:
    """Say whether a statement ended by limit_statements()."""
    return sqlstate(problem) == psycopg.errors.QueryCanceled.sqlstate


def is_read_only(problem: BaseException) -> bool:
    """Say whether the server refused to write, as a standby or a former primary does.

    Only a new connection can reach a server that writes.
    """
    return sqlstate(problem) == psycopg.errors.ReadOnlySqlTransaction.sqlstate


def is_unavailable(problem: BaseException) -> bool:
    """Say whether the same statement may succeed later, or on another connection."""
    return isinstance(problem, (OperationalError, InterfaceError)) or is_read_only(problem)


def limit_statements(seconds: int) -> None:
    """Let no statement of this transaction run longer; 0 takes the limit away."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{seconds}s"])


# Facts about each new connection.


class Facts(NamedTuple):
    """Facts about a connection, queried in one round trip before their first use."""

    backend_pid: int


FACTS_SQL = "SELECT pg_backend_pid()"

_facts: WeakKeyDictionary[psycopg.Connection[Any], Facts] = WeakKeyDictionary()


def look_at(wrapper: BaseDatabaseWrapper) -> Facts:
    """Return the facts about a Django connection; opens the connection if necessary.

    Raises Django's database errors.
    """
    wrapper.ensure_connection()
    raw = wrapper.connection
    facts = _facts.get(raw)
    if facts is None:
        # Django's cursor would log and count this query as one of the caller's.
        with wrapper.wrap_database_errors, psycopg.Cursor(raw) as cursor:
            facts = _facts[raw] = Facts._make(cursor.execute(FACTS_SQL).fetchone() or ())
    return facts


def is_pooled(wrapper: BaseDatabaseWrapper | None = None) -> bool:
    """Return whether a Django connection (default: the default one) goes through a pooler.

    Postgres sends its backend's process id when a connection begins, for cancelling queries.
    Poolers send a made-up one (PgBouncer a random one), however few backends they have. They also
    do so in session mode, where avoiding session state is safe, too. Raises Django's database errors.
    """
    wrapper = wrapper or connection
    facts = look_at(wrapper)
    return bool(wrapper.connection.info.backend_pid != facts.backend_pid)


def has_session_state(wrapper: BaseDatabaseWrapper | None = None) -> bool:
    """Return whether this thread alone uses its session, so that session state is safe.

    Session state means prepared statements, SET values and session-level locks. The connection
    defaults to Django's default one. False behind a pooler and with DATABASE_PREPARED_STATEMENTS=0.
    Raises Django's database errors.
    """
    return settings.DATABASE_PREPARED_STATEMENTS and not is_pooled(wrapper)


def leave_pools() -> None:
    """Let this process open connections without Django's pools, and close what these have open.

    For workers, which keep a connection per thread: a pool has fewer, and a fork would share its
    sockets. Call it before a fork.
    """
    wrapper: Any
    for wrapper in connections.all():
        if wrapper.settings_dict["OPTIONS"].get("pool"):
            wrapper.close()
            wrapper.close_pool()
            del wrapper.settings_dict["OPTIONS"]["pool"]


# The limits of a worker's connections.

# A plan must not depend on statistics: Postgres often gathered them when little waited, and a prepared
# plan stays in use while its table grows. With sequential scans, a plan made for an empty table would
# scan the whole table. With sorts, a plan made when little waited would read all rows of a webhook and
# sort them for each claim. So a worker's statements order a table's rows only where an index does.
# jit: without sequential scans, a table without an index has so high a cost that Postgres would compile
# its scan.
PLANNER_SQL = """
SELECT set_config('enable_seqscan', 'off', false),
       set_config('enable_sort', 'off', false),
       set_config('enable_incremental_sort', 'off', false),
       set_config('jit', 'off', false)"""
# Timeouts: a worker that freezes in a transaction must not keep its locks, and a worker that waits
# for a locked row must not miss heartbeats until it counts as dead.
# One statement, because several take no parameter where a project has `server_side_binding`.
SET_UP_SQL = f"""{PLANNER_SQL},
       set_config('idle_in_transaction_session_timeout', '5s', false),
       set_config('lock_timeout', '5s', false),
       set_config('application_name', %s, false)
"""
LIMITS_SQL = """
SELECT set_config('idle_in_transaction_session_timeout', '5s', true),
       set_config('lock_timeout', '5s', true)
"""


def set_up_connection(name: str, wrapper: BaseDatabaseWrapper | None = None) -> None:
    """Set a worker's limits on this thread's connection, or on another, and the name for
    end_connections().

    Does nothing behind a pooler; there limited_transaction() sets the limits. Raises Django's
    database errors.
    """
    wrapper = wrapper or connection
    if has_session_state(wrapper):
        with wrapper.cursor() as cursor:
            cursor.execute(SET_UP_SQL, [name])


@contextmanager
def limited_transaction() -> Iterator[None]:
    """Open a transaction with a worker's limits, behind a pooler as well.

    Postgres ends the transaction if the worker freezes in it.
    """
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
    """Terminate all connections with these names, which rolls back their open transactions.

    Logs a warning for a connection that Postgres refuses to terminate, such as another role's.
    Connections through a pooler have no name and are not found. Raises Django's database errors.
    """
    for (pid,) in run(FIND_CONNECTIONS_SQL, {"names": names}).fetchall():
        try:
            run(END_SQL, {"pid": pid})
        except ProgrammingError as refusal:
            logger.warning("Backend %d of a dead worker could not be terminated: %s", pid, refusal)
