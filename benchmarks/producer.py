"""A process that saves models at a steady rate: `python -m benchmarks.producer [--bare]`.

Waits for orders (benchmarks.orders). With `--bare` it inserts one row of the yardstick's instead and
hands it to benchmarks.bare_worker.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import django


def main() -> None:
    django.setup()
    from benchmarks import orders

    save = _bare() if "--bare" in sys.argv else _ours
    orders.serve(lambda **order: _save_steadily(save, **order))


def _save_steadily(
    save: Callable[[str], str], session: str, rate: float, seconds: float
) -> dict[str, Any]:
    sent = []
    started_at = time.perf_counter() + 0.05
    offset = time.time() - time.perf_counter()
    for number in range(int(rate * seconds)):
        planned_at = started_at + number / rate
        time.sleep(max(0.0, planned_at - time.perf_counter()))
        identifier = save(session)
        ended_at = time.perf_counter()
        sent.append((identifier, planned_at + offset, (ended_at - planned_at) * 1000))
    return {"sent": sent, "failed": {}}


def _ours(session: str) -> str:
    """Save a message and return its id: what its event refers to."""
    from sessions_app.models import SessionMessage

    message = SessionMessage.objects.create(
        session_id=session, sender="agent", content="Working on it. " * 20
    )
    return str(message.id)


def _bare() -> Callable[[str], str]:
    import os

    import redis

    from benchmarks import bare_door, harness

    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    payload = str(harness.message()).encode()

    def save(session: str) -> str:
        event_id = bare_door.store(payload)
        bare_door.hand_over(client, event_id)
        return event_id

    return save


if __name__ == "__main__":
    main()
