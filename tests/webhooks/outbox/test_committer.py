"""Group commit: whatever becomes of connections, who is told of an event finds it, once."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from projects.models import User
from tests.concurrency import another_connection
from tests.pgbouncer import output_of, pgbouncer, python_through
from webhooks.doors import allowances
from webhooks.errors import IdempotencyConflictError, StorageUnavailableError, WebhooksError
from webhooks.models import ApiToken, Delivery, Event, Webhook
from webhooks.outbox import batch, committer, store
from webhooks.outbox.batch import Result
from webhooks.outbox.committer import Committer
from webhooks.outbox.store import Trigger
from webhooks.postgres import sql
from webhooks.postgres.shared import shared as shared_connection

DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Website",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}

pytestmark = pytest.mark.django_db(transaction=True)


def build(owner: UUID, key: str | None = None, name: str = "a") -> Event:
    result = batch.build_each(Trigger("project.deleted", owner, DATA | {"name": name}, key))
    assert isinstance(result, Event)
    return result


def stored(owner: UUID) -> list[Event]:
    return list(Event.objects.filter(owner_id=owner))


@contextmanager
def at_work(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads, whose connections are closed in the end."""
    with ThreadPoolExecutor(count) as threads:
        yield threads
        gate = threading.Barrier(count)
        for closed in [threads.submit(_close, gate) for _ in range(count)]:
            closed.result()


def _close(gate: threading.Barrier) -> None:
    # Each thread takes one of these.
    gate.wait()
    connections.close_all()


def store_together(
    shared: Committer, requests: Sequence[Sequence[Event]], threads: ThreadPoolExecutor
) -> list[Future[list[Result]]]:
    """Have the requests stored in one batch: nothing is stored until all have joined it."""
    count = sum(map(len, requests))
    with shared_connection.turn:
        asked = [threads.submit(shared.store, request) for request in requests]
        wait_until(lambda: shared._open is not None and len(shared._open.results) == count)
    return asked


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to the database to store events."""
    sent: list[str] = []
    run = sql.run

    def noted(sql: str, *arguments: Any) -> Any:
        sent.append(sql)
        return run(sql, *arguments)

    monkeypatch.setattr(store, "run", noted)
    return sent


# Turns.


def test_who_comes_meanwhile_is_stored_in_one_statement(statements: list[str]) -> None:
    owners = [uuid4() for _ in range(5)]

    with at_work(5) as threads:
        asked = store_together(Committer(), [[build(owner)] for owner in owners], threads)
        results = [one.result() for one in asked]

    assert len(statements) == 1
    assert [stored(owner) for owner in owners] == results


def test_who_comes_alone_costs_one_statement_and_no_look_at_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with shared_connection.taken():
        used = connections["default"]
    monkeypatch.setattr(used, "health_check_enabled", True)
    monkeypatch.setattr(used, "is_usable", lambda: pytest.fail("asked"))
    owner = uuid4()

    with CaptureQueriesContext(used) as queries:
        Committer().store([build(owner)])

    assert len(queries) == 1
    assert len(stored(owner)) == 1


def test_threads_store_by_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    backends: list[int] = []
    run = sql.run

    def noted(*arguments: Any) -> Any:
        answer = run(*arguments)
        backends.append(connection.connection.info.backend_pid)
        return answer

    monkeypatch.setattr(store, "run", noted)
    with at_work(4) as threads:
        for _ in range(8):
            threads.submit(committer.committer.store, [build(uuid4())]).result(30)
        used = threads.submit(lambda: connections["default"].connection).result(30)

    assert len(backends) == 8
    assert len(set(backends)) == 1
    assert used is None, "the thread opened no connection of its own"


def test_thread_has_its_own_connection_back(monkeypatch: pytest.MonkeyPatch) -> None:
    own = connections["default"]
    committer.committer.store([build(uuid4())])
    assert connections["default"] is own

    monkeypatch.setattr(store, "run", FaultyConnection(["lost", "lost", "lost"]))
    with pytest.raises(StorageUnavailableError):
        committer.committer.store([build(uuid4())])
    assert connections["default"] is own


def test_each_gets_his_own_answer(make_webhook: Callable[..., Webhook], user: User) -> None:
    make_webhook()
    told = IdempotencyConflictError("Told before.")
    first, second, third = build(user.pk, "k"), build(user.pk, "k"), build(user.pk, "k", "other")
    requests: list[Any] = [[first], [second], [third], [told, build(user.pk)]]

    with at_work(4) as threads:
        asked = store_together(Committer(), requests, threads)
        (one,), (other,), (conflict,), (same, last) = (one.result() for one in asked)

    assert one == other
    assert isinstance(conflict, IdempotencyConflictError)
    assert same is told
    assert isinstance(last, Event)
    assert {last.fanout_count, one.fanout_count, other.fanout_count} == {1}  # type: ignore[union-attr]
    assert Delivery.objects.filter(event__type="project.deleted").count() == 2


def test_large_requests_wait_for_nobody() -> None:
    shared, owner = Committer(), uuid4()

    with at_work(1) as threads, shared_connection.turn:
        many = threads.submit(shared.store, [build(owner) for _ in range(11)])
        assert len(many.result(30)) == 11
        large = threads.submit(shared.store, [build(owner, name="x" * 40_000)])
        assert len(large.result(30)) == 1


def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch, statements: list[str]) -> None:
    monkeypatch.setattr(committer, "MAX_BATCH_EVENTS", 2)
    shared, owner = Committer(), uuid4()

    with at_work(5) as threads:
        with shared_connection.turn:
            asked = [threads.submit(shared.store, [build(owner)]) for _ in range(5)]
            wait_until(lambda: threads._work_queue.empty())
        for one in asked:
            one.result()

    assert len(statements) >= 3
    assert len(stored(owner)) == 5


def test_inside_a_transaction_events_are_stored_in_it_and_with_no_others() -> None:
    shared, owner = Committer(), uuid4()

    def store_and_look() -> int:
        with transaction.atomic():
            shared.store([build(owner)])
            count = len(stored(owner))
            transaction.set_rollback(True)
        return count

    with at_work(1) as threads, shared_connection.turn:
        assert threads.submit(store_and_look).result(30) == 1

    assert stored(owner) == []


def test_a_lock_of_one_tenant_delays_nobody_else() -> None:
    shared, owner, other = Committer(), uuid4(), uuid4()

    with at_work(3) as threads:
        with transaction.atomic():
            store.store_events([build(owner, "k")])
            waits, stays = store_together(shared, [[build(owner, "k")], [build(other)]], threads)
            (event,) = stays.result(30)
            assert [event] == stored(other)
            assert not waits.done()
            # Nor those who come later.
            later = threads.submit(shared.store, [build(other)])
            later.result(30)
        (first,) = waits.result(30)

    assert [first] == stored(owner)


def test_an_attempt_under_way_is_waited_for() -> None:
    owner = uuid4()
    event = build(owner)

    with at_work(1) as threads:
        with transaction.atomic():
            store.store_events([event])
            again = threads.submit(committer.store_alone, [event])
            with pytest.raises(TimeoutError):
                again.result(0.2)
        assert again.result(30) == [event]

    assert stored(owner) == [event]


def test_a_leader_that_dies_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, owner = Committer(), uuid4()

    def die_once(*arguments: Any) -> Any:
        monkeypatch.setattr(committer, "store_each", batch.store_each)
        raise SystemExit

    monkeypatch.setattr(committer, "store_each", die_once)
    with at_work(3) as threads:
        asked = store_together(shared, [[build(owner)] for _ in range(3)], threads)
        outcomes = [one.exception(30) for one in asked]
        threads.submit(shared.store, [build(owner)]).result(30)

    assert sorted(map(type, outcomes), key=str) == [type(None), type(None), SystemExit]
    assert len(stored(owner)) == 3


def test_a_leader_that_dies_before_its_turn_is_joined_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Deadly(threading.Event):
        def __enter__(self) -> None:
            raise SystemExit

        def __exit__(self, *_: object) -> None: ...

    shared = Committer()
    monkeypatch.setattr(shared_connection, "turn", Deadly())

    with pytest.raises(SystemExit):
        shared.store([build(uuid4())])

    assert shared._open is None
    monkeypatch.undo()


def test_a_forked_process_has_locks_of_its_own() -> None:
    with shared_connection.taken(), committer.committer._joining:
        child = os.fork()
        if not child:
            locks = shared_connection.turn, committer.committer._joining
            os._exit(0 if all(lock.acquire(timeout=5) for lock in locks) else 1)

    assert os.waitpid(child, 0)[1] == 0


# Faults.


class FaultyConnection:
    """Stands before the database when events are stored, and fails as it is told."""

    def __init__(self, faults: Sequence[str]) -> None:
        self._faults = iter(faults)
        self._run = sql.run

    def __call__(self, *arguments: Any) -> Any:
        fault = next(self._faults, "none")
        if fault in ("lost", "refused"):
            return self._fail(fault)
        answer = self._run(*arguments)
        return answer if fault == "none" else self._fail(fault)

    def _fail(self, fault: str) -> Any:
        if fault != "refused" and connection.connection is not None:
            connection.connection.close()
        raise OperationalError(fault)


FAULTS = ("none", "lost", "lost after the commit", "refused")
WISH = st.tuples(st.sampled_from([None, "a", "b"]), st.sampled_from("xy"))
REQUEST = st.lists(WISH, min_size=1, max_size=3)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    wishes=st.lists(REQUEST, min_size=1, max_size=5),
    faults=st.lists(st.sampled_from(FAULTS), max_size=10),
    is_together=st.booleans(),
)
def test_whoever_is_told_of_an_event_finds_it_once(
    wishes: list[list[tuple[str | None, str]]], faults: list[str], is_together: bool
) -> None:
    owner, shared = uuid4(), Committer()
    requests = [[build(owner, *wish) for wish in request] for request in wishes]

    with pytest.MonkeyPatch.context() as patch, at_work(len(requests)) as threads:
        patch.setattr(store, "run", FaultyConnection(faults))
        if is_together:
            asked = store_together(shared, requests, threads)
        else:
            asked = [threads.submit(shared.store, request) for request in requests]
        outcomes = [(one.exception(60), one) for one in asked]

    found = {event.id: event for event in stored(owner)}
    assert len(found) == len(stored(owner))
    for request, (problem, answer) in zip(requests, outcomes, strict=True):
        if problem is not None:
            assert isinstance(problem, StorageUnavailableError)
            continue
        for event, result in zip(request, answer.result(), strict=True):
            if isinstance(result, WebhooksError):
                assert event.id not in found
                continue
            assert found[result.id].idempotency_key == event.idempotency_key
            assert bytes(found[result.id].body_hash or b"") == bytes(event.body_hash or b"")
            assert event.idempotency_key is not None or result.id == event.id
    for request in requests:
        # A retry by key finds what is there, whoever was told of it.
        keyed = [event for event in request if event.idempotency_key]
        for event, result in zip(keyed, shared.store(keyed), strict=True):
            assert isinstance(result, WebhooksError) or (
                event.id not in found or result.id == event.id
            )
    keys = [event.idempotency_key for event in stored(owner) if event.idempotency_key]
    assert len(keys) == len(set(keys))


# By HTTP.


@pytest.fixture
def token(user: User, monkeypatch: pytest.MonkeyPatch) -> str:
    counter = allowances.Counter()
    counter._silent_until = float("inf")
    monkeypatch.setattr(allowances, "counter", counter)
    return ApiToken.objects.issue(user, name="t", scopes=["trigger"], lifetime=None)[1]


def post(token: str, key: str | None = None) -> Any:
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    wish = {"type": "project.deleted", "data": DATA}
    return client.post("/api/v1/events", wish | ({"idempotencyKey": key} if key else {}))


def test_without_a_database_the_answer_is_503(
    token: str, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(store, "run", FaultyConnection(["lost"] * 9))
        refused = post(token, "k")

    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:remotedevai:problem:unavailable"
    assert not Event.objects.filter(type="project.deleted").exists()
    assert post(token, "k").status_code == 201


def test_server_that_became_read_only_is_left_for_one_that_writes(token: str) -> None:
    """Its connections stay open after a failover; a new one leads to the primary."""
    assert post(token).status_code == 201
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    with another_connection() as other:
        other.autocommit = True
        other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            connection.close()
            shared_connection.close()
            refused = post(token)
        finally:
            other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:remotedevai:problem:unavailable"
    later = post(token)
    connection.close()
    assert later.status_code == 201


KILL_SQL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def test_killed_backends_lose_no_event_and_store_none_twice(token: str, user: User) -> None:
    is_over = threading.Event()
    answers: list[tuple[str, int, str | None]] = []

    def ask(thread: int) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            key = f"{thread}-{number}"
            answer = post(token, key)
            event_id = answer.json()["id"] if answer.status_code == 201 else None
            answers.append((key, answer.status_code, event_id))

    killed = 0
    with at_work(8) as threads:
        asked = [threads.submit(ask, thread) for thread in range(8)]
        for _ in range(40):
            with connection.cursor() as cursor:
                cursor.execute(KILL_SQL)
                killed += cursor.fetchone()[0]
            # On a busy machine, too, some requests come through between two kills.
            enough = len(answers) + 16
            wait_until(lambda enough=enough: len(answers) >= enough)  # type: ignore[misc]
        is_over.set()
        for one in asked:
            one.result(60)

    assert killed > 20
    assert {status for _, status, _ in answers} <= {201, 503}
    rows = Event.objects.filter(type="project.deleted").values_list("idempotency_key", "id")
    by_key = {key: f"evt_{event_id.hex}" for key, event_id in rows}
    assert len(by_key) == len(rows)
    told = {key: event_id for key, status, event_id in answers if status == 201}
    assert len(told) > 40
    assert {key: by_key.get(key) for key in told} == told
    for key, status, _ in answers:
        if status == 503 and key in by_key:
            assert post(token, key).json()["id"] == by_key[key]


THROUGH_POOLER = f"""
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4
from webhooks.outbox.batch import build_each
from webhooks.outbox.committer import committer
from webhooks.models import Event
from webhooks.outbox.store import Trigger

owner = uuid4()

def store(number):
    event = build_each(Trigger("project.deleted", owner, {DATA!r}, str(number % 100)))
    return committer.store([event])[0].id

with ThreadPoolExecutor(16) as threads:
    ids = set(threads.map(store, range(300)))
with connection.cursor() as cursor:
    cursor.execute("SHOW lock_timeout")
    print(len(ids), Event.objects.filter(owner_id=owner, id__in=ids).count(), cursor.fetchone()[0])
"""


def test_behind_a_transaction_pooler() -> None:
    with pgbouncer(pool_size=3) as url:
        printed = output_of(python_through(url, THROUGH_POOLER))

    assert printed.split() == ["100", "100", "0"]
