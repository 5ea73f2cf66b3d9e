"""A product under load: `python -m tests.chaos.producer SEED CAUSES`.

Writes models in every way until it is told to stop, some of it in transactions that roll back.
Before each transaction it writes down in the file CAUSES which events that must cause. Postgres may
go away under it; it then starts the next thing. It changes only objects that it made itself, so
that it knows what is stored without asking.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import django
from django.db import Error, close_old_connections, connection

from tests.chaos.causes import Causes

MOST_PER_SECOND = 20


def main() -> None:
    django.setup()
    # Models can be imported from here on.
    from tests.chaos import stories
    from tests.chaos.product import Product

    is_stopping = False

    def stop(*_: Any) -> None:
        nonlocal is_stopping
        is_stopping = True

    signal.signal(signal.SIGTERM, stop)
    dice = random.Random(int(sys.argv[1]))
    product = Product(dice, Causes(Path(sys.argv[2])))
    weights, all_stories = zip(*stories.ALL, strict=True)
    while not is_stopping:
        close_old_connections()
        try:
            dice.choices(all_stories, weights)[0](product, product.place())
        except Error:
            if "CHAOS_WRITES_MUST_SUCCEED" in os.environ:
                raise
            product.forget()
            connection.close()
        time.sleep(1 / MOST_PER_SECOND)


if __name__ == "__main__":
    main()
