"""Work on the database beside the loop, on threads with a connection each."""

from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, InterfaceError, connection

from webhooks.database import set_up_connection


def with_fresh_connection(name: str, work: Callable[..., Any], *args: Any) -> Any:
    """Run `work`; after an error of the database the next one starts with a new connection, which
    then is called `name` in Postgres.

    The old one may have been cut, or what is prepared on it may not fit a table that was altered since.
    """
    try:
        if connection.connection is None:
            set_up_connection(name)
        return work(*args)
    except (DatabaseError, InterfaceError):
        connection.close()
        raise
