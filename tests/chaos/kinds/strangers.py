"""Somebody else's transactions in Postgres stay open."""

from typing import Any, LiteralString

import psycopg

from config.embedded import DATABASE
from tests.chaos.faults import Fault, Kind, Stage
from tests.chaos.kinds.held import public


def lock_delivery(stage: Stage, fault: Fault) -> None:
    """One that is in flight, where there is any."""
    rows = _keep_open(
        stage,
        fault,
        "SELECT id FROM webhooks_delivery WHERE finished_at IS NULL"
        " ORDER BY claimed_by IS NULL, random() LIMIT 1 FOR UPDATE",
    )
    fault.locked = public(row[0] for row in rows)


def lock_webhook(stage: Stage, fault: Fault) -> None:
    # A writer's lock: the other one would hold up producers, whoever delivers.
    sql = "SELECT id FROM webhooks_webhook WHERE id = %s FOR NO KEY UPDATE"
    _keep_open(stage, fault, sql, stage.world.recipient().webhook.id)


def lock_event(stage: Stage, fault: Fault) -> None:
    sql = "SELECT id FROM webhooks_event ORDER BY id DESC LIMIT 20 FOR UPDATE"
    _keep_open(stage, fault, sql)


def lock_user(stage: Stage, fault: Fault) -> None:
    owner = stage.dice.choice([r.owner for r in stage.world.recipients if r.owner])
    _keep_open(stage, fault, "SELECT id FROM projects_user WHERE id = %s FOR NO KEY UPDATE", owner)


def lock_heartbeat(stage: Stage, fault: Fault) -> None:
    sql = "SELECT id FROM webhooks_workerheartbeat ORDER BY random() LIMIT 1 FOR UPDATE"
    _keep_open(stage, fault, sql)


def take_long_snapshot(stage: Stage, fault: Fault) -> None:
    sql = "SELECT count(*) FROM webhooks_pause"
    _keep_open(stage, fault, sql, isolation="REPEATABLE READ", seconds=(60, 180))


def write_in_another_database(stage: Stage, fault: Fault) -> None:
    sql = "SELECT pg_current_xact_id()"
    _keep_open(stage, fault, sql, database="postgres", seconds=(20, 90))


def _keep_open(
    stage: Stage,
    fault: Fault,
    sql: LiteralString,
    *parameters: object,
    database: str = DATABASE,
    isolation: LiteralString = "READ COMMITTED",
    seconds: tuple[float, float] = (5, 30),
) -> list[Any]:
    """Keep a transaction open that has done this; returns what it found."""
    stranger: psycopg.Connection[Any] = stage.world.servers.postgres.connect(database)
    try:
        stranger.execute("SET lock_timeout = '3s'")
        stranger.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        rows = stranger.execute(sql, parameters).fetchall()
    except psycopg.Error:
        stranger.close()
        raise
    stage.go_on(fault, *seconds, stranger.close)
    # A lock on a row is written into it.
    if "FOR " in sql:
        fault.delays_order_until = fault.lasts_until
    return rows


KINDS = [
    Kind(2, lock_delivery),
    Kind(1, lock_webhook),
    Kind(1, lock_event),
    Kind(1, lock_user),
    Kind(1, lock_heartbeat),
    Kind(1, take_long_snapshot),
    Kind(1, write_in_another_database),
]
