"""What the signals add to a plain save, and how fast events are triggered by the thousand."""

import statistics
import time
import uuid
from typing import Any

from django.db import models

from benchmarks import bare_rows, harness, steady
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from sessions_app.models import Session, SessionMessage
from webhooks.outbox import hints, valkey

SAVES = 400
TRIGGERED = 20_000
PER_CALL = 1000
OWNERS = 50


class BareMessage(models.Model):  # noqa: DJ008 (never shown)
    """The table of SessionMessage without signals: the bare save."""

    id = models.UUIDField(primary_key=True)
    session_id = models.UUIDField()
    sender = models.CharField(max_length=200)
    content = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        app_label = "sessions_app"
        managed = False
        db_table = SessionMessage._meta.db_table


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    bare, saved = Series("bare save", "ms"), Series("save with one matching webhook", "ms")
    without = Series("save that no webhook matches", "ms")
    added, woken = Series("added to the commit", "ms"), Series("wake-up after the commit", "ms")
    for _ in range(rounds):
        medians = _save(receiver)
        for series, value in zip((bare, without, saved, woken), medians, strict=True):
            series.values.append(value)
        added.values.append(medians[2] - medians[0])
    results = {
        "save": harness.show(
            f"Save a session's message, {SAVES} times each in turn, no worker",
            [bare, without, saved, added, woken],
            [
                Goal("added to the commit, ms", added.median, 1, at_most=True),
                Goal("wake-up after it, ms", woken.median, 0.8, at_most=True),
            ],
            digits=2,
        )
    }
    copied, triggered = Series("COPY of the same rows", "/s"), Series("trigger_events", "/s")
    for _ in range(rounds):
        triggered.values.append(_trigger(receiver))
        copied.values.append(bare_rows.copy_events(PER_CALL))
    results["trigger"] = harness.show(
        f"trigger_events of {PER_CALL:,}, one webhook each",
        [copied, triggered],
        [
            Goal("events per second", triggered.median, 15_000, form="{:,.0f}"),
            Goal("trigger_events / COPY of the same rows", ratio(triggered, copied)),
        ],
    )
    return results


def _save(receiver: Receiver) -> tuple[float, float, float, float]:
    """Return the medians of a bare save, one without and one with a webhook, and of the wake-up."""
    harness.empty_tables()
    silent, heard = steady.make_sessions(harness.make_owners(2))
    harness.make_webhooks([heard.owner], receiver.url)
    client = valkey.connect(5)
    times: tuple[list[float], ...] = ([], [], [], [])
    for _ in range(SAVES):
        times[0].append(_time_of(lambda: _save_bare(heard)))
        times[1].append(_time_of(lambda: _save_tracked(silent)))
        # As if a worker had found nothing since the last commit: the hint is sent in full.
        client.flushdb()
        times[2].append(_time_of(lambda: _save_tracked(heard)))
        times[3].append(_time_of(lambda: hints._hinter.flush(5)))
    bare, without, with_one, woken = map(statistics.median, times)
    return bare, without, with_one, woken


def _time_of(action: Any) -> float:
    started_at = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - started_at)


CONTENT = "Working on it. " * 20


def _save_bare(session: Session) -> None:
    now = harness.now()
    BareMessage(
        id=uuid.uuid4(), session_id=session.id, sender="a", content=CONTENT, created_at=now
    ).save(force_insert=True)


def _save_tracked(session: Session) -> None:
    SessionMessage.objects.create(session=session, sender="a", content=CONTENT)


def _trigger(receiver: Receiver) -> float:
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    harness.make_webhooks(owners, receiver.url)
    harness.settle_down()
    harness.trigger_messages(owners, PER_CALL)
    milliseconds = _time_of(lambda: harness.trigger_messages(owners, TRIGGERED, batch=PER_CALL))
    return TRIGGERED / milliseconds * 1000
