"""How the relay and the consumer bear with Postgres and the log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import Error, connection

from cells.log import LogClosedError, LogError

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5


@contextmanager
def waiting_out(who: str) -> Iterator[None]:
    """Log an error of Postgres or of the log that the block raises, and pause; its work comes again.

    Raises LogClosedError: the process ends then, and its supervisor starts another one.
    """
    try:
        yield
    except LogClosedError:
        raise
    except (Error, LogError) as problem:
        logger.warning("The %s tries again: %s", who, problem)
        if isinstance(problem, Error):
            connection.close()
        time.sleep(PAUSE_SECONDS)
