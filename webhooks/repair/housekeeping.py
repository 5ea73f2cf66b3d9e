"""The chores of workers, and their threads.

Each chore has its own thread in every worker, so that a chore that raises or hangs stops neither
other chores nor the dispatcher; webhooks/repair/chores.py assigns the turns.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from webhooks.dispatch.desk import with_fresh_connection
from webhooks.figures import present
from webhooks.ids import new_id
from webhooks.postgres import epoch, horizon
from webhooks.repair import (
    expiry,
    notices,
    partitions,
    proof,
    redelivery_batches,
    retention,
    rollups,
)
from webhooks.repair.chores import Chore, Progress, take_turn

logger = logging.getLogger(__name__)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LOOK_AGAIN_SECONDS = 30.0
"""The longest wait before a thread reads the schedule again."""
KEEP_CONNECTION_SECONDS = 5.0
"""A thread that waits for longer closes its connection."""
DATABASE_PAUSE_SECONDS = 2.0
SUSPECTS = "suspects"
TRANSACTIONS = "transactions"
WATCH_EVERY = timedelta(seconds=5)


def chores() -> list[Chore]:
    """Return the chores that the settings enable."""
    wanted = [
        Chore("redeliveries", again(redelivery_batches.advance_all), SECOND),
        # A silent mail server takes all of its timeouts.
        Chore("mails", again(notices.send_due), SECOND, lease_seconds=60.0),
        Chore("stored responses", again(expiry.delete_expired_responses), MINUTE),
        Chore("roll-ups", again(rollups.roll_up), MINUTE, lease_seconds=60.0),
        Chore("partitions", again(partitions.make_ahead), HOUR),
        Chore("test inboxes", again(expiry.delete_ended_inboxes), MINUTE),
    ]
    if settings.WEBHOOKS_ENDPOINT_PROOF != "off":
        wanted += [
            Chore("challenges", again(proof.send_due), SECOND),
            Chore("quiet hosts", again(expiry.delete_quiet_hosts), HOUR),
        ]
    if settings.WEBHOOKS_RETENTION_DAYS:
        wanted.append(Chore("purge", retention.purge_daily, DAY, lease_seconds=60.0))
    if settings.WEBHOOKS_AUDIT_RETENTION_DAYS:
        wanted.append(Chore("audit log", again(expiry.delete_expired_audit_entries), DAY))
    return wanted


def states() -> list[present.ChoreState]:
    """Return the state of these chores and of the local ones, by name. One statement.

    Leaves out the rows of disabled chores.
    """
    wanted = {SUSPECTS, TRANSACTIONS, *(chore.name for chore in chores())}
    return [state for state in present.chores() if state.name in wanted]


def tending(tend: Callable[[], object]) -> Chore:
    """Return the local chore that watches a worker's process for suspects."""
    return Chore(SUSPECTS, again(tend), SECOND, is_local=True)


def watching() -> Chore:
    """Return the local chore that watches for transactions that hold the horizon back."""
    return Chore(TRANSACTIONS, again(ClusterWatch().look), WATCH_EVERY, is_local=True)


def again(do: Callable[[], object]) -> Callable[[Progress], Progress | None]:
    """Return a chore's work for a function without progress that returns whether it has more to do."""
    return lambda _: {} if do() else None


def keep_house() -> bool:
    """Take one turn of every due chore; return whether one has more to do."""
    early_seconds = SECOND.total_seconds()
    pauses = [take_turn(chore, new_id(), early_seconds=early_seconds) for chore in chores()]
    return 0.0 in pauses


class ClusterWatch:
    """Records a new epoch, and logs transactions that hold ordered webhooks and the feed back."""

    def __init__(self) -> None:
        self._say_at_seconds = 0.0

    def look(self) -> None:
        """Look once."""
        connection.ensure_connection()
        with connection.wrap_database_errors:
            if epoch.record(connection.connection):
                logger.warning("Postgres is another server than before: a new epoch begins.")
        self._name(horizon.holder())

    def _name(self, holder: horizon.Holder | None) -> None:
        if holder is None:
            self._say_at_seconds = 0.0
        elif holder.seconds >= self._say_at_seconds:
            # Again when it has taken twice as long.
            self._say_at_seconds = 2 * holder.seconds
            logger.warning("%s To mend it: %s", holder, holder.mend)


class Housekeeper:
    """Runs chores until it is stopped, each on its own daemon thread."""

    def __init__(self, chores: Iterable[Chore]) -> None:
        self.id = new_id()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._repeat, args=(chore,), name=f"chore: {chore.name}", daemon=True
            )
            for chore in chores
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Start no more turns, and wait for running ones, at most `timeout` seconds in all."""
        self._stopping.set()
        ends_at = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, ends_at - time.monotonic()))

    def _repeat(self, chore: Chore) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            pause = self._take_turn(chore)
            if not chore.is_local:
                # The current housekeeper may end, and the schedule may change.
                pause = min(pause, max(chore.every.total_seconds(), 1.0), LOOK_AGAIN_SECONDS)
            if pause > KEEP_CONNECTION_SECONDS:
                connection.close()
        connection.close()

    def _take_turn(self, chore: Chore) -> float:
        name = f"webhooks-housekeeper {self.id.hex}"
        try:
            return with_fresh_connection(name, take_turn, chore, self.id)
        except (DatabaseError, InterfaceError) as problem:
            logger.warning("The chore %r waits for Postgres: %s", chore.name, problem)
        except Exception:
            # One failure must not end the thread.
            logger.exception("The chore %r could not be recorded.", chore.name)
        return DATABASE_PAUSE_SECONDS
