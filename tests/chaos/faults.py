"""What breaks a chaos run's world, and what each fault may be the reason of."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event as Flag
from threading import Thread
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psutil
import psycopg
import redis
from django.conf import settings
from django.db import Error

from config.embedded import DATABASE
from tests.chaos.world import (
    HOST,
    TIMEOUT_SECONDS,
    Recipient,
    Span,
    World,
    forget_connection,
    tree,
)
from webhooks import service
from webhooks.ids import DELIVERY_PREFIX
from webhooks.models import Delivery, Webhook, WorkerHeartbeat

ZOMBIE_SECONDS = 14
"""Longer than the silence after which a worker is declared dead."""
CLOCK_STEPS = (-20, 20)
FULL_DISK_SECONDS = (3, 8)


@dataclass
class Fault:
    """What was broken, and from when to when (Unix seconds)."""

    kind: str
    started_at: float
    ended_at: float = 0.0
    may_repeat: frozenset[str] = frozenset()
    """The deliveries that may arrive twice for it: those that were held, or whose result it undid."""
    repeats_until: float = 0.0
    """Until when the first of the two arrivals must have been."""
    is_death: bool = False
    """Whether `may_repeat` waits for others to notice that a worker is dead."""
    works_from: float = 0.0
    """From when on new events are to arrive in spite of it."""
    lasts_until: float = 0.0
    """When what goes on in the background ends."""
    is_writer: bool = False
    """Whether that is a transaction of the same database that has written: ordered webhooks wait for
    it, since it may yet store events that come first (docs/reliability.md)."""


class Faults:
    """Breaks one thing after another, the same for the same seed."""

    def __init__(self, world: World, seconds: float, only: Iterable[str] = ()) -> None:
        """`seconds` is how long the run takes; `only` names the kinds, all where it is empty."""
        self.world = world
        self.done: list[Fault] = []
        self._longest = seconds / 3
        self._is_over = Flag()
        self._background: list[Thread] = []
        self._gone = 0
        kinds: list[tuple[int, Callable[[Fault], object]]] = [
            (6, self.kill_worker),
            (3, self.terminate_worker),
            (2, self.stop_and_continue_worker),
            (2, self.kill_web),
            (1, self.kill_valkey),
            (1, self.empty_valkey),
            (2, self.stop_valkey_for_a_while),
            (2, self.restart_postgres),
            (2, self.crash_postgres),
            (2, self.terminate_connections),
            (2, self.switch_webhook_off_and_on),
            (2, self.rotate_secret),
            (1, self.edit_url),
            (1, self.delete_webhook),
            (2, self.lock_delivery),
            (1, self.lock_webhook),
            (1, self.lock_event),
            (1, self.lock_user),
            (1, self.lock_heartbeat),
            (1, self.take_long_snapshot),
            (1, self.write_in_another_database),
            (1, self.move_name),
        ]
        if world.servers.database_clock and world.servers.worker_clock:
            kinds += [(1, self.step_database_clock), (1, self.step_worker_clock)]
        if world.servers.disk.is_own:
            kinds.append((1, self.fill_disk))
        self.moves: list[Callable[[Fault], object]] = [self.restore_dump, self.promote_standby]
        """Once each in every run, at a time of their own."""
        named = set(only)
        self._kinds = [(w, k) for w, k in kinds if not named or k.__name__ in named]
        self.moves = [move for move in self.moves if not named or move.__name__ in named]
        if unknown := named - {k.__name__ for _, k in kinds} - {m.__name__ for m in self.moves}:
            raise SystemExit(f"No such fault here: {', '.join(sorted(unknown))}")

    def break_something(self) -> Fault | None:
        """Break one thing at random, mend it where it does not mend itself, and note it."""
        if not self._kinds:
            return None
        weights, actions = zip(*self._kinds, strict=True)
        return self.carry_out(self.world.dice.choices(actions, weights)[0])

    def carry_out(self, action: Callable[[Fault], object]) -> Fault:
        fault = Fault(action.__name__, time.time())
        fault.works_from = fault.started_at
        with suppress(Error, redis.RedisError, psutil.NoSuchProcess, psycopg.Error):
            action(fault)
        forget_connection()
        fault.ended_at = time.time()
        self.done.append(fault)
        return fault

    def end(self) -> None:
        """Mend what goes on in the background."""
        self._is_over.set()
        for thread in self._background:
            thread.join()

    # Workers and the web process.

    def kill_worker(self, fault: Fault) -> None:
        with self._stopped(fault) as processes:
            # The children, too: what they hold is known now.
            for process in processes:
                process.kill()

    def stop_and_continue_worker(self, fault: Fault) -> None:
        with self._stopped(fault) as processes:
            time.sleep(ZOMBIE_SECONDS)
            for process in processes:
                process.resume()

    @contextmanager
    def _stopped(self, fault: Fault) -> Iterator[list[psutil.Process]]:
        """Stop a worker in the middle of everything, and note what it holds."""
        processes = tree(self.world.worker())
        for process in processes:
            process.suspend()
        try:
            fault.may_repeat = _held_by([process.pid for process in processes])
            fault.is_death = True
            fault.repeats_until = time.time() + 1
            yield processes
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def terminate_worker(self, _: Fault) -> None:
        self.world.worker().terminate()

    def kill_web(self, _: Fault) -> None:
        self.world.web().kill()

    # Valkey.

    def kill_valkey(self, _: Fault) -> None:
        _valkey().kill()

    def empty_valkey(self, _: Fault) -> None:
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5).flushall()

    def stop_valkey_for_a_while(self, _: Fault) -> None:
        valkey = _valkey()
        valkey.suspend()
        time.sleep(self.world.dice.uniform(2, 6))
        valkey.resume()

    # Postgres.

    def restart_postgres(self, fault: Fault) -> None:
        self._replace_server(fault, lambda: self._stop_and_start(signal.SIGINT))

    def crash_postgres(self, fault: Fault) -> None:
        self._replace_server(fault, lambda: self._stop_and_start(signal.SIGQUIT))

    def _stop_and_start(self, how: signal.Signals) -> None:
        postgres = self.world.servers.postgres
        postgres.close()
        postgres.stop(how)
        postgres.start()

    def restore_dump(self, fault: Fault) -> None:
        """Everything is stopped hard, a younger cluster made of a dump, and started again."""
        self.world.kill_all()
        try:
            postgres = self.world.servers.postgres
            postgres.close()
            _terminate_others(postgres.connect)
            self._replace_server(fault, postgres.move_by_dump)
        finally:
            self.world.start_again()
        fault.works_from = time.time()

    def promote_standby(self, fault: Fault) -> None:
        self._replace_server(fault, self.world.servers.postgres.move_by_promotion)

    def _replace_server(self, fault: Fault, replace: Callable[[], None]) -> None:
        """Let another server serve, or the same one again.

        What it has forgotten, it forgot before anybody could get to it: only what it does not know
        to be finished can be sent again.
        """
        postgres = self.world.servers.postgres
        forget_connection()
        replace()
        with postgres.connect() as look:
            rows = look.execute("SELECT id FROM webhooks_delivery WHERE finished_at IS NULL")
            fault.may_repeat = _public(row[0] for row in rows)
        postgres.open()
        # Requests that were ready went out while nobody could take them back.
        fault.repeats_until = time.time() + 2
        fault.works_from = time.time()

    def terminate_connections(self, _: Fault) -> None:
        _terminate_others(self.world.servers.postgres.connect)

    def fill_disk(self, fault: Fault) -> None:
        """Nothing can be written for some seconds; where Postgres panics, it is started again."""
        postgres, disk = self.world.servers.postgres, self.world.servers.disk
        disk.fill()
        until = time.time() + self.world.dice.uniform(*FULL_DISK_SECONDS)
        while postgres.is_alive and time.time() < until:
            time.sleep(0.1)
        if postgres.is_alive:
            disk.empty()
            fault.works_from = time.time()
            return
        postgres.close()
        disk.empty()
        self._replace_server(fault, postgres.start)

    def step_database_clock(self, fault: Fault) -> None:
        clock = self.world.servers.database_clock
        assert clock is not None
        self._step(fault, clock.set)

    def step_worker_clock(self, fault: Fault) -> None:
        clock = self.world.servers.worker_clock
        assert clock is not None
        self._step(fault, clock.set)

    def _step(self, fault: Fault, set_clock: Callable[[int], None]) -> None:
        set_clock(self.world.dice.choice(CLOCK_STEPS))

        def step_back() -> None:
            self._is_over.wait(max(0.0, fault.lasts_until - time.time()))
            set_clock(0)

        self._go_on(fault, 5, 20, step_back)

    # Strangers in Postgres.

    def lock_delivery(self, fault: Fault) -> None:
        self._lock(
            fault,
            "SELECT id FROM webhooks_delivery WHERE finished_at IS NULL"
            " ORDER BY claimed_by IS NULL, random() LIMIT 1 FOR UPDATE",
        )

    def lock_webhook(self, fault: Fault) -> None:
        # A writer's lock: the other one would hold up producers, whoever delivers.
        sql = "SELECT id FROM webhooks_webhook WHERE id = %s FOR NO KEY UPDATE"
        self._lock(fault, sql, self.world.recipient().webhook.id)

    def lock_event(self, fault: Fault) -> None:
        self._lock(fault, "SELECT id FROM webhooks_event ORDER BY id DESC LIMIT 20 FOR UPDATE")

    def lock_user(self, fault: Fault) -> None:
        owner = self.world.dice.choice([r.owner for r in self.world.recipients if r.owner])
        self._lock(fault, "SELECT id FROM projects_user WHERE id = %s FOR NO KEY UPDATE", owner)

    def lock_heartbeat(self, fault: Fault) -> None:
        self._lock(
            fault,
            "SELECT id FROM webhooks_workerheartbeat ORDER BY random() LIMIT 1 FOR UPDATE",
        )

    def take_long_snapshot(self, fault: Fault) -> None:
        sql = "SELECT count(*) FROM webhooks_pause"
        self._lock(fault, sql, isolation="REPEATABLE READ", seconds=(60, 180))

    def write_in_another_database(self, fault: Fault) -> None:
        self._lock(fault, "SELECT pg_current_xact_id()", database="postgres", seconds=(20, 90))

    def _lock(
        self,
        fault: Fault,
        sql: LiteralString,
        *parameters: object,
        database: str = DATABASE,
        isolation: LiteralString = "READ COMMITTED",
        seconds: tuple[float, float] = (5, 30),
    ) -> None:
        """Keep a transaction open that has done this."""
        postgres = self.world.servers.postgres
        stranger = postgres.connect(database)
        try:
            stranger.execute("SET lock_timeout = '3s'")
            stranger.execute(f"BEGIN ISOLATION LEVEL {isolation}")
            stranger.execute(sql, parameters)
        except psycopg.Error:
            stranger.close()
            raise

        # A lock on a row is written into it.
        fault.is_writer = "FOR " in sql

        def hold() -> None:
            self._is_over.wait(max(0.0, fault.lasts_until - time.time()))
            stranger.close()

        self._go_on(fault, *seconds, hold)

    def _go_on(self, fault: Fault, least: float, most: float, work: Callable[[], None]) -> None:
        """Do something beside the faults that follow, for so many seconds."""
        seconds = min(self.world.dice.uniform(least, most), self._longest)
        fault.lasts_until = time.time() + seconds
        thread = Thread(target=work, daemon=True)
        self._background.append(thread)
        thread.start()

    # Webhooks, and where they go.

    def switch_webhook_off_and_on(self, _: Fault) -> None:
        recipient = self.world.recipient()
        webhook = _webhook(recipient)
        off = Span(time.time(), float("inf"))
        recipient.off.append(off)
        service.disable(webhook, "chaos")
        off.ended_at = time.time()
        time.sleep(self.world.dice.uniform(0.5, 6))
        on = Span(time.time(), float("inf"))
        recipient.off.append(on)
        while on.ended_at == float("inf"):
            with suppress(Error):
                service.enable(webhook, send="all")
                on.ended_at = time.time()

    def rotate_secret(self, _: Fault) -> None:
        recipient = self.world.recipient()
        webhook = _webhook(recipient)
        # Known before it can be used: an error may hide a commit.
        service.rotate_secret(webhook)
        recipient.secrets.append((time.time(), webhook.secret))

    def edit_url(self, _: Fault) -> None:
        webhook = _webhook(self.world.recipient())
        service.update_webhook(webhook, url=f"{webhook.url.partition('?')[0]}?{time.time_ns()}")

    def delete_webhook(self, _: Fault) -> None:
        """Make a webhook, let something go to it, and delete it."""
        self._gone += 1
        like = self.world.dice.choice([r for r in self.world.recipients if r.owner])
        path, patterns = f"/gone/{self._gone}", ["*"]
        port = like.webhook.url.split(":")[2].split("/")[0]
        created = Span(time.time(), float("inf"))
        webhook = service.create_webhook(
            like.owner,
            name="short-lived",
            url=f"http://{HOST}:{port}{path}",
            events=patterns,
            timeout_seconds=TIMEOUT_SECONDS,
        )
        created.ended_at = time.time()
        recipient = Recipient(
            path, like.owner, patterns, False, created, [(0.0, webhook.secret)], webhook
        )
        recipient.deleted = Span(float("inf"), float("inf"))
        self.world.recipients.append(recipient)
        time.sleep(self.world.dice.uniform(0.2, 2))
        recipient.deleted.began_at = time.time()
        while recipient.deleted.ended_at == float("inf"):
            with suppress(Error):
                service.delete_webhook(webhook)
                recipient.deleted.ended_at = time.time()

    def move_name(self, _: Fault) -> None:
        self.world.move_name()


def _webhook(recipient: Recipient) -> Webhook:
    return Webhook.objects.get(id=recipient.webhook.id)


def _public(ids: Iterable[object]) -> frozenset[str]:
    return frozenset(DELIVERY_PREFIX + getattr(one, "hex") for one in ids)  # noqa: B009


def _held_by(pids: list[int]) -> frozenset[str]:
    workers = WorkerHeartbeat.objects.filter(pid__in=pids).values("id")
    held = Delivery.objects.filter(claimed_by__in=workers, finished_at=None)
    return _public(held.values_list("id", flat=True))


def _terminate_others(connect: Callable[[], psycopg.Connection[Any]]) -> None:
    """End all connections to the database but strangers' to others, and wait until they are gone."""
    with connect() as maintenance:
        others = (
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
        maintenance.execute(others)


def _valkey() -> psutil.Process:
    socket = urlsplit(settings.REDIS_URL).path
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or [""]
        if command[0].endswith("valkey-server") and socket in command:
            return process
    raise psutil.NoSuchProcess(0, "valkey-server")
