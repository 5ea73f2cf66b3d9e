"""One transaction of a connection that a project's own function returns."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any


@contextmanager
def transaction(connect: Callable[[], Any]) -> Iterator[Any]:
    """Yield a new connection; commit at the end, roll back if the block raises, close it either way."""
    with closing(connect()) as connection:
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()
