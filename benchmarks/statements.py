"""Count what Postgres and Valkey are asked for each event."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from django.db import connection

from webhooks.outbox import valkey

STATEMENT = re.compile(r"\[(\d+)\] LOG:  (?:statement|execute [^:]*): (.*(?:\n\t.*)*)")
OWN_COMMANDS = {"info", "client|setinfo", "hello"}


def logged(action: Callable[[], object]) -> Counter[str]:
    """Return how often each statement (its beginning) ran while the action did, ours left out.

    From the log of the embedded server, whose wheel has no pg_stat_statements. Logging costs time,
    so nothing else is measured meanwhile.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('data_directory'), pg_backend_pid()")
        directory, own_backend = cursor.fetchone()
        log = Path(directory).parent / "postgres.log"
        _log_statements(True)
        start = log.stat().st_size
        try:
            action()
        finally:
            _log_statements(False)
    text = log.read_bytes()[start:].decode(errors="replace")
    return Counter(
        " ".join(statement.split())[:150]
        for backend, statement in STATEMENT.findall(text)
        if int(backend) != own_backend
    )


def _log_statements(on: bool) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER SYSTEM SET log_statement = '{'all' if on else 'none'}'")
        cursor.execute("SELECT pg_reload_conf()")
        # Not before every backend has heard of it.
        cursor.execute("SELECT pg_sleep(0.3)")


def valkey_calls() -> Counter[str]:
    """Return how often each command has been called; the difference of two says what ran between."""
    stats = valkey.connect(5).info("commandstats")
    return Counter(
        {
            name.removeprefix("cmdstat_"): int(values["calls"])
            for name, values in stats.items()
            if name.removeprefix("cmdstat_") not in OWN_COMMANDS
        }
    )
