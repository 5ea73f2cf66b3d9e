"""The worker without RQ: the dispatcher in the main thread, woken by Postgres or by its own poll.

`manage.py webhooks_worker` runs it. It needs neither Valkey nor RQ's packages.
"""

import threading

from webhooks.dispatch.engine import Engine, run_suspects
from webhooks.repair.housekeeping import keep_house
from webhooks.worker import process
from webhooks.worker.main_thread import MainThread, prepare


def run() -> None:
    """Send until a signal, for the main thread only; a second signal leaves what is in flight to other
    workers.

    Exits at once, with the reasons, where promises could not be kept (webhooks/worker/preflight.py).
    """
    prepare()
    main = MainThread(threading.Event())
    process.handle_signals(main.request_stop)
    main.listen()
    main.run_with_helpers()
    main.leave_if_needed()


def run_until_idle() -> None:
    """Send what is due, with its chores and suspects, and return."""
    prepare()
    keep_house()
    Engine().run(until_idle=True)
    run_suspects()
