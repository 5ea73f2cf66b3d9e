"""Statements that the loop asks for itself: their answers, their failures, and what goes to threads."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection

from projects.models import User
from tests.concurrency import another_connection, calls_of, in_thread
from tests.webhooks.history import trigger
from tests.workers import wait_until
from webhooks.dispatch import desks, records, shortcut
from webhooks.dispatch import line as lines
from webhooks.dispatch.desk import DatabaseThread
from webhooks.dispatch.engine import Engine
from webhooks.dispatch.line import SLOW_SECONDS, Line, Statement, open_connection
from webhooks.dispatch.settle import sorted_by_id
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.many import MultiSender
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

ECHO = Statement("echo", "SELECT %(number)s::int, %(text)s::text, %(number)s::int + 1")
DIVIDE = Statement("divide", "SELECT 1 / %(number)s::int")
SLEEP = Statement("sleep", "SELECT 1 FROM pg_sleep(%(seconds)s::float8)")


class Loop:
    """What an engine's loop does for a line."""

    def __init__(self) -> None:
        self.sender = MultiSender(AddressPolicy([]))
        self.thread = DatabaseThread("test", self.sender.wake, lambda: None)
        self.line = self._new_line()

    def _new_line(self) -> Line:
        return Line(
            lambda name: self.thread.submit(name, open_connection, name), "line", self.sender
        )

    def open(self) -> Line:
        def is_open() -> bool:
            self.turn()
            return self.line.is_free

        wait_until(is_open)
        return self.line

    def turn(self) -> None:
        self.line.order(time.monotonic())
        self.line.collect()
        self.sender.poll(0.01)

    def wait_for(self, *futures: Future[Any]) -> None:
        def are_done() -> bool:
            self.turn()
            return all(future.done() for future in futures)

        wait_until(are_done)

    def result(self, future: Future[Any]) -> Any:
        self.wait_for(future)
        return future.result()

    def close(self) -> None:
        self.line.close()
        self.thread.disconnect()
        self.thread.shut_down(wait=True)
        self.sender.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def rows(answer: lines.RowsOrError) -> Any:
    if isinstance(answer, psycopg.Error):
        raise answer
    return answer


def test_statements_are_answered_one_after_the_other(loop: Loop) -> None:
    line = loop.open()
    first = line.ask(ECHO, {"number": 1, "text": "100 % ü"}, rows)
    second = line.ask(ECHO, {"number": 2, "text": ""}, rows)
    assert not line.is_free

    assert loop.result(second) == [(2, "", 3)]
    assert first.result() == [(1, "100 % ü", 2)]
    assert line.is_free


def test_parameter_and_answer_may_be_larger_than_a_sockets_buffers(loop: Loop) -> None:
    line = loop.open()
    text = "x" * 20_000_000

    assert loop.result(line.ask(ECHO, {"number": 1, "text": text}, rows)) == [(1, text, 2)]


def test_arrays_of_ids_and_numbers_arrive(loop: Loop) -> None:
    ids = [new_id(), new_id()]
    both = Statement("both", "SELECT %(ids)s::uuid[], %(numbers)s::int[], %(none)s::uuid[]")

    asked = loop.open().ask(both, {"ids": ids, "numbers": [3, -4], "none": []}, rows)

    assert loop.result(asked) == [(ids, [3, -4], [])]


def test_refused_statement_harms_no_other_and_keeps_the_connection(loop: Loop) -> None:
    line = loop.open()
    refused = line.ask(DIVIDE, {"number": 0}, rows)
    other = line.ask(DIVIDE, {"number": 1}, rows)

    assert loop.result(other) == [(1,)]
    assert isinstance(refused.exception(), psycopg.errors.DivisionByZero)
    assert line.is_free


def test_cut_connection_fails_what_was_asked_and_is_opened_anew(loop: Loop) -> None:
    line = loop.open()
    assert loop.result(line.ask(DIVIDE, {"number": 1}, rows)) == [(1,)]
    asked = [line.ask(SLEEP, {"seconds": 60}, rows), line.ask(DIVIDE, {"number": 1}, rows)]
    with another_connection() as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                      " WHERE application_name = 'line'")  # fmt: skip
        loop.wait_for(*asked)

    assert all(isinstance(future.exception(), psycopg.OperationalError) for future in asked)
    assert loop.result(loop.open().ask(DIVIDE, {"number": 1}, rows)) == [(1,)]


def test_altered_table_costs_one_connection_only(loop: Loop) -> None:
    line = loop.open()
    star = Statement("star", "SELECT * FROM altered")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE altered (a int)")
        try:
            assert loop.result(line.ask(star, {}, rows)) == []
            cursor.execute("ALTER TABLE altered ADD COLUMN b int")
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                loop.result(line.ask(star, {}, rows))
            assert loop.result(loop.open().ask(star, {}, rows)) == []
        finally:
            cursor.execute("DROP TABLE altered")


def test_slow_statement_is_not_waited_behind(loop: Loop) -> None:
    line = loop.open()
    assert loop.result(line.ask(SLEEP, {"seconds": 0}, rows)) == [(1,)]
    slow = line.ask(SLEEP, {"seconds": 4 * SLOW_SECONDS}, rows)
    assert line.is_free
    time.sleep(2 * SLOW_SECONDS)

    assert not line.is_free
    loop.result(slow)
    assert line.is_free


def test_line_that_is_closed_while_it_opens_leaves_no_connection(loop: Loop) -> None:
    loop.line.order(time.monotonic())
    loop.line.close()

    opened = loop.line._opened.result()
    wait_until(lambda: opened.closed)


def test_without_a_session_of_ones_own_there_is_no_line(loop: Loop, settings: Any) -> None:
    settings.DATABASE_PREPARED_STATEMENTS = False
    loop.line.order(time.monotonic())
    loop.thread.submit("", lambda: None).result()
    loop.turn()

    assert not loop.line.is_free


# The worker's use of it.


@contextmanager
def running_engine() -> Iterator[Engine]:
    """A dispatcher whose line is open; it is stopped and waited for at the end."""
    engine = Engine()
    thread = in_thread(engine.run)
    try:
        wait_until(lambda: engine.desks.line.is_free)
        yield engine
    finally:
        engine.stop()
        thread.join()


def all_succeeded() -> bool:
    return set(Delivery.objects.values_list("status", flat=True)) == {"SUCCESS"}


def test_lone_events_need_no_thread(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    claims = calls_of(desks, "claim_due", monkeypatch)
    settles = calls_of(records, "settle", monkeypatch)
    with running_engine() as engine:
        for number in range(1, 21):
            trigger(user, 1)
            engine.hint()
            receiver.wait_for(number)
        wait_until(all_succeeded)

    # News and surveys are asked for on the claimer once a second, whatever happens.
    assert len(claims) < 10
    assert len(settles) < 10


def test_result_that_postgres_refuses_is_written_without_the_answer(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    real = sorted_by_id

    def spoilt(results: Any) -> Any:
        return [{**result, "body": "no base64"} for result in real(results)]

    monkeypatch.setattr(shortcut, "sorted_by_id", spoilt)
    with running_engine() as engine:
        trigger(user, 1)
        engine.hint()
        wait_until(all_succeeded, 10)
        assert engine.desks.line.is_free

    assert len(receiver.requests) == 1
