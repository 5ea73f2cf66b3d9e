"""Yardstick of a quiet worker: one pop, one claim, one request, one settle for each event.

`python -m benchmarks.bare_worker URL` serves what benchmarks.bare_door stores, until it is stopped.
No retries, no limits, no check of anything.
"""

import os
import sys

import psycopg
import pycurl
import redis

from benchmarks.bare_door import QUEUE
from benchmarks.bare_loop import header_lines, new_handle

CLAIM = """
    UPDATE bare_event SET claimed = true
     WHERE id = (SELECT id FROM bare_event WHERE id = %s AND NOT claimed FOR UPDATE SKIP LOCKED)
    RETURNING payload
"""
SETTLE = """
    WITH settled AS (
        UPDATE bare_event SET finished_at = clock_timestamp() WHERE id = %s RETURNING id)
    INSERT INTO bare_attempt (event_id, response_code) SELECT id, %s FROM settled
"""


def main() -> None:
    handle = new_handle(sys.argv[1])
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as postgres:
        postgres.prepare_threshold = 1
        postgres.execute("SET synchronous_commit = off")
        while True:
            popped: tuple[bytes, bytes] = client.blpop([QUEUE])  # type: ignore[assignment]
            event_id = popped[1].decode()
            claimed = postgres.execute(CLAIM, [event_id]).fetchone()
            assert claimed is not None
            handle.setopt(pycurl.POSTFIELDS, claimed[0])
            handle.setopt(pycurl.HTTPHEADER, header_lines(claimed[0], event_id.encode()))
            handle.perform()
            postgres.execute(SETTLE, [event_id, handle.getinfo(pycurl.RESPONSE_CODE)])


if __name__ == "__main__":
    main()
