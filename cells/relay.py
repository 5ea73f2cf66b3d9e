"""The relay: publishes the events of a producer's database to the log.

It reads the feed (webhooks/outbox/feed.py), which has every event once and in order, and notes its cursor
after the log has confirmed. Killed in between, it publishes the same events again, and the log drops them
by their ids. Two relays of one database do no harm: each publishes an event only after all before it.
"""

import time
from collections import defaultdict
from collections.abc import Callable

from django.db import connection

from cells.cellmap import read_map
from cells.log import Entry, Log
from cells.messages import entry_of
from cells.patience import waiting_out
from cells.slots import stream_of
from webhooks.outbox import feed
from webhooks.postgres.sql import query

PAGE_EVENTS = 2000
IDLE_SECONDS = 0.02

BEGINNING = feed.Cursor(0, 0)
READ_SQL = "SELECT cursor FROM cells_relay"
FIRST_SQL = "INSERT INTO cells_relay (cursor) VALUES (%s) ON CONFLICT DO NOTHING"
# Compared, so that of two relays the one that is behind changes nothing.
NOTE_SQL = "UPDATE cells_relay SET cursor = %s WHERE cursor = %s RETURNING 1"


class Relay:
    """Raises MapMissingError without a map."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._streams: int | None = None
        """The number of streams, which never changes."""

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Publish until told to stop; errors of Postgres and the log are waited out."""
        while not is_stopping():
            with waiting_out("relay"):
                if not self.step():
                    time.sleep(IDLE_SECONDS)

    def step(self) -> int:
        """Publish the next page; return the number of its events. Raises LogError, too."""
        if self._streams is None:
            self._streams = read_map(self._log).streams
        after = _cursor()
        page = feed.read(after, limit=PAGE_EVENTS)
        if page.next == after:
            return 0
        streams: dict[int, list[Entry]] = defaultdict(list)
        for event in page.events:
            entry = entry_of(event)
            streams[stream_of(entry.slot, self._streams)].append(entry)
        self._log.publish(streams)
        query(NOTE_SQL, [page.next, after])
        return len(page.events)


def begin_now() -> None:
    """Leave out the events before this moment, if no relay has run yet."""
    with connection.cursor() as cursor:
        cursor.execute(FIRST_SQL, [feed.now().to_text()])


def unpublished() -> int | None:
    """Return how many events wait for the relay, PAGE_EVENTS at most; None if none ever ran here."""
    rows = query(READ_SQL)
    return len(feed.read(rows[0][0], limit=PAGE_EVENTS).events) if rows else None


def _cursor() -> str:
    rows = query(READ_SQL)
    if not rows:
        with connection.cursor() as cursor:
            cursor.execute(FIRST_SQL, [BEGINNING.to_text()])
        rows = query(READ_SQL)
    return str(rows[0][0])
