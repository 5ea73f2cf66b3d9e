"""A reader of the feed: `python -m tests.chaos.follower FILE`.

Reads what everybody caused, from where it began on, until it is told to stop and has come to the end.
Each line of the file holds a page of events and the cursor behind it, so that one that is killed goes
on where the last whole line ends. Postgres may go away under it.
"""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import django

PAUSE_SECONDS = 0.2
PAGE = 500


def main() -> None:
    django.setup()
    from django.db import Error, connection

    from webhooks.outbox import feed

    is_stopping = False

    def stop(*_: Any) -> None:
        nonlocal is_stopping
        is_stopping = True

    signal.signal(signal.SIGTERM, stop)
    path = Path(sys.argv[1])
    cursor = _last_cursor(path)
    with path.open("a", buffering=1) as file:
        while True:
            is_last = is_stopping
            try:
                page = feed.read(cursor, limit=PAGE)
            except Error:
                connection.close()
                time.sleep(PAUSE_SECONDS)
                continue
            if page.events or cursor is None:
                payloads = [event.payload.decode() for event in page.events]
                file.write(json.dumps({"events": payloads, "next": page.next}) + "\n")
            cursor = page.next
            if page.has_more:
                continue
            if is_last:
                return
            time.sleep(PAUSE_SECONDS)


def _last_cursor(path: Path) -> str | None:
    """Return where to go on; cuts off a line that a kill left half-written."""
    if not path.exists():
        return None
    whole, _, half = path.read_bytes().rpartition(b"\n")
    if half:
        path.write_bytes(whole + b"\n" if whole else b"")
    lines = whole.splitlines()
    return str(json.loads(lines[-1])["next"]) if lines else None


if __name__ == "__main__":
    main()
