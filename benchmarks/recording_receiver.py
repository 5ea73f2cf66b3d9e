"""A receiver that notes when each event arrived: `python -m benchmarks.recording_receiver FILE`.

Prints its URL, answers 200 to everything, and writes `event id, Unix seconds` lines to FILE when
it is told to stop. In Python: for steady rates, where the time of arrival is the point.
"""

import signal
import sys
import threading
from pathlib import Path

from webhooks.http_receiver import HttpReceiver


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with HttpReceiver() as receiver:
        print(receiver.url, flush=True)
        stop.wait()
        lines = [f"{request.event_id} {request.received_at}" for request in receiver.requests]
    Path(sys.argv[1]).write_text("\n".join(lines))


if __name__ == "__main__":
    main()
