"""Run the action of a request in one transaction, and again where another request overtook it.

What a request looks up may be deleted before it writes. The answer then is the one that a request
gets which comes a moment later: 404, or what else it finds.
"""

from collections.abc import Callable
from typing import Any

import psycopg
from django.db import DatabaseError, transaction
from rest_framework.exceptions import NotFound

from webhooks.postgres.sql import limit_statements, sqlstate

MAX_ATTEMPTS = 3
OVERTAKEN = {
    # A row below an object that is deleted, or an object with a row that was just added below it.
    psycopg.errors.ForeignKeyViolation.sqlstate,
    # Two of the same unique name: the next attempt finds the other one.
    psycopg.errors.UniqueViolation.sqlstate,
    psycopg.errors.DeadlockDetected.sqlstate,
    psycopg.errors.SerializationFailure.sqlstate,
}


def was_overtaken(problem: Exception) -> bool:
    """Say whether what another transaction committed meanwhile made this one fail."""
    return isinstance(problem, DatabaseError) and sqlstate(problem) in OVERTAKEN


def in_one_transaction(
    view: Any, seconds: int, handler: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Call the handler of a view, with a time limit for each of its statements.

    Raises NotFound where the view's object is deleted meanwhile, and undoes what was done to it.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            with transaction.atomic():
                limit_statements(seconds)
                answer = handler(*args, **kwargs)
                if view.action != "destroy":
                    view.check_object_is_there()
                return answer
        except Exception as problem:  # whatever it is, it may come of the object being deleted
            if not isinstance(problem, NotFound):
                view.check_object_is_there()
            if attempt == MAX_ATTEMPTS or not was_overtaken(problem):
                raise
    return None


def or_not_found(view: Any, handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a handler that begins its transactions itself; raises NotFound like the other."""
    try:
        return handler(*args, **kwargs)
    except Exception as problem:
        if not isinstance(problem, NotFound):
            view.check_object_is_there()
        raise
