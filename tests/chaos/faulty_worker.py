"""A worker that dies or freezes at a chosen point: `python -m tests.chaos.faulty_worker POINT rqworker`.

With `save N` instead, N processes one after the other that each save something.

Wraps functions of this process only; what runs in production has no hooks. Deaths are noticed sooner
than usual, so that tests need not wait.
"""

import os
import select
import signal
import sys
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any, NoReturn

SILENCE_SECONDS = 1.5
BEAT_SECONDS = 0.3
SUSPENDED_SECONDS = 1.0


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def after_claim() -> None:
    from webhooks.dispatch.claim import Claim
    from webhooks.dispatch.desks import Desks

    real = Desks._take_claim

    def take_claim(desks: Desks, claim: Claim) -> None:
        if claim.taken.count:
            die()
        real(desks, claim)

    Desks._take_claim = take_claim  # type: ignore[assignment, method-assign]


def _without_line() -> None:
    """Have all of it done on the threads, where this process looks on."""
    from webhooks.dispatch.line import Line

    Line.is_free = property(lambda _: False)  # type: ignore[assignment, method-assign]


def _die_after_asking(name: str) -> None:
    """Die while Postgres carries out what the loop has asked for."""
    from webhooks.dispatch.line import Line

    real = Line.ask

    def ask(line: Line, statement: Any, *args: Any) -> Any:
        asked = real(line, statement, *args)
        if statement.name == name.encode() and statement.name in line._prepared:
            die()
        return asked

    Line.ask = ask  # type: ignore[assignment, method-assign]


def in_claim_by_line() -> None:
    _die_after_asking("quick_claim")


def in_settle_by_line() -> None:
    _die_after_asking("settle")


def before_send() -> None:
    from webhooks.wire.many import MultiSender

    MultiSender.start = die  # type: ignore[method-assign]


def after_answer() -> None:
    from webhooks.dispatch.desks import Desks

    Desks.take_outcome = die  # type: ignore[method-assign]


def in_settle() -> None:
    """The statement has run, the transaction is not committed."""
    from django.db import transaction

    from webhooks.dispatch import records

    _without_line()
    real = records.settle  # type: ignore[attr-defined]

    def settle(*args: Any) -> NoReturn:
        with transaction.atomic():
            real(*args)
            die()

    records.settle = settle  # type: ignore[assignment, attr-defined]


def after_settle() -> None:
    from webhooks.dispatch import health, shortcut

    health.record = shortcut.summarize = die  # type: ignore[attr-defined]


def before_wakeup() -> None:
    from webhooks.outbox import wakeup

    wakeup.nudge = die


def freeze() -> None:
    """Stop as a suspended machine would: nothing is closed, nothing is answered."""
    os.kill(os.getpid(), signal.SIGSTOP)


def _freeze_before(module: Any, statement: str) -> None:
    real = module.run

    def run(sql: str, parameters: Any) -> Any:
        if sql == statement:
            freeze()
        return real(sql, parameters)

    module.run = run


def frozen_in_burial() -> None:
    """While it holds the lock on a dead worker's heartbeat."""
    from webhooks.dispatch import life

    _freeze_before(life, life.RECLAIM_SQL)


def frozen_in_health() -> None:
    """While it holds the lock on a webhook."""
    from webhooks.dispatch import health

    _freeze_before(health, health.WRITE_SQL)


def frozen_in_claim() -> None:
    """While Postgres writes what was claimed, before it commits: for answers that fill a socket."""
    from django.db import connection

    from webhooks.dispatch import take

    _without_line()
    real = take.run  # type: ignore[attr-defined]

    def wait(exchange: Generator[int, int, Any], **_: Any) -> None:
        # As far as the question is sent; the answer begins when there is something to read.
        next(exchange)
        select.select([connection.connection], [], [])
        freeze()

    def run(sql: str, parameters: Any) -> Any:
        if sql == take.CLAIM_SQL:
            connection.ensure_connection()
            connection.connection.wait = wait
        return real(sql, parameters)

    take.run = run  # type: ignore[assignment, attr-defined]


def frozen_after_start() -> None:
    """With a request that is signed and not on its way."""
    from webhooks.wire.many import MultiSender

    _freeze_once(MultiSender, "start", is_after=True)


def frozen_before_request() -> None:
    """With a connection, before the first byte."""
    from webhooks.wire.exchange import Exchange

    _freeze_once(Exchange, "_may_send", is_after=False)


def _freeze_once(owner: Any, name: str, *, is_after: bool) -> None:
    real = getattr(owner, name)

    def freezing(*args: Any, **kwargs: Any) -> Any:
        setattr(owner, name, real)
        if is_after:
            real(*args, **kwargs)
            freeze()
            return None
        freeze()
        return real(*args, **kwargs)

    setattr(owner, name, freezing)


def nowhere() -> None:
    """Not at all: the one who takes over."""


POINTS: dict[str, Callable[[], None]] = {
    point.__name__: point
    for point in (
        after_claim, before_send, after_answer, in_settle, after_settle, before_wakeup,
        in_claim_by_line, in_settle_by_line,
        frozen_in_burial, frozen_in_health, frozen_in_claim, frozen_after_start,
        frozen_before_request, nowhere,
    )
}  # fmt: skip


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    import webhooks.wire.many
    from webhooks.dispatch import engine, lease, life
    from webhooks.postgres import sql
    from webhooks.repair import housekeeping

    webhooks.wire.many.SUSPENDED_SECONDS = engine.SUSPENDED_SECONDS = SUSPENDED_SECONDS  # type: ignore[attr-defined]
    life.SILENCE_BEFORE_DEATH_SECONDS = SILENCE_SECONDS
    # As far below the silence as in production.
    sql.SET_UP_SQL = sql.SET_UP_SQL.replace("'lock_timeout', '5s'", "'lock_timeout', '0.7s'")
    engine.BEAT_SECONDS = lease.BEAT_SECONDS = BEAT_SECONDS  # type: ignore[attr-defined]
    lease.FENCE_SECONDS = SILENCE_SECONDS * 0.8
    housekeeping.SECOND = timedelta(seconds=BEAT_SECONDS)
    point = sys.argv.pop(1)
    POINTS[point]()
    if sys.argv[1] == "save":
        _save(int(sys.argv[2]))
        return
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


def _save(times: int) -> None:
    """Save so often, each time in a process of its own; fails unless each of them dies."""
    from projects.models import Project, User

    for _ in range(times):
        child = os.fork()
        if child == 0:
            Project.objects.create(owner=User.objects.get(username="ada"), name="P")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, status


if __name__ == "__main__":
    main()
