"""Break everything under load and count: `python -m tests.chaos [--seed N] [--minutes M]`.

Real Postgres, Valkey, workers, a web process and a receiver; models saved, written in bulk and
rolled back, events triggered by HTTP; all of it killed, stopped, restarted and emptied at random
times, the same for the same seed. At the end everything is left to settle, and what the receiver
wrote down is held against the database.
Exit status 1 on any broken promise.
"""

import argparse
import os
import sys

from config.scratch import set_up_empty
from config.services import BASE_DIR


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="Which run (1).")
    parser.add_argument("--minutes", type=float, default=1.0, help="How long to break things (1).")
    parser.add_argument("--workers", type=int, default=3, help="Worker processes (3).")
    parser.add_argument("--json", help="File to write the figures to.")
    parser.add_argument(
        "--without-valkey",
        action="store_true",
        help="Break nothing but that there is no Valkey at all; no write may fail then.",
    )
    options = parser.parse_args()
    set_up_empty(BASE_DIR / "var" / "chaos-services", WEBHOOKS_API_REQUESTS_PER_MINUTE="1000000")
    from tests.chaos.run import run

    if options.without_valkey:
        # Read by the processes to be started; this one only looks at Postgres.
        os.environ |= {"REDIS_URL": "redis://127.0.0.1:1/0", "CHAOS_WRITES_MUST_SUCCEED": "1"}
    sys.exit(
        run(
            options.seed,
            options.minutes,
            options.workers,
            options.json,
            breaks_things=not options.without_valkey,
        )
    )


if __name__ == "__main__":
    main()
