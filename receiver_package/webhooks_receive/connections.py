"""One transaction of a connection that a project's own function returns."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any


@contextmanager
def transaction(connect: Callable[[], Any]) -> Iterator[Any]:
    """Yield a new connection; commit at the end, roll back if the block raises, close it either way.

    Raises ValueError for a connection that commits each statement: the id of an event would stay where
    its handling failed, and the event would be lost.
    """
    with closing(connect()) as connection:
        if _commits_each_statement(connection):
            raise ValueError("connect() must return a connection without autocommit.")
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


def _commits_each_statement(connection: Any) -> bool:
    # psycopg has a level of None by default, which means the server's.
    is_sqlite = type(connection).__module__ == "sqlite3"
    return bool(connection.isolation_level is None if is_sqlite else connection.autocommit)
