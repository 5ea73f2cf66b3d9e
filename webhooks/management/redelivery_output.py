"""Carry redeliveries out at a terminal: their progress, their results, their documents."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from webhooks.ids import WEBHOOK_PREFIX
from webhooks.management.terminal import Command, bar, counted, table
from webhooks.models import Redelivery
from webhooks.repair import redelivery_batches, redelivery_progress, redelivery_scope
from webhooks.repair.redelivery_progress import Progress

POLL_SECONDS = 0.2
HEADER = ["WEBHOOK", "NAME", "QUEUED", "SUCCEEDED", "FAILED", "RETRYING", "HELD", "ERROR"]
NUMBERS = "QUEUED SUCCEEDED FAILED RETRYING HELD"

Sleep = Callable[[float], bool]
"""Waits for so many seconds, and returns True if the operator asked to stop."""


def queue(command: Command, redelivery: Redelivery, sleep: Sleep) -> None:
    """Queue all deliveries of a redelivery; raises KeyboardInterrupt if the operator stops it."""
    while True:
        has_more = redelivery_batches.advance(redelivery.id)
        redelivery.refresh_from_db()
        if redelivery.status != Redelivery.Status.RUNNING:
            return
        queued = bar(redelivery.queued_count, redelivery.matched_count)
        command.progress(f"{redelivery.public_id} queued {queued}")
        # If it is running without more to advance, a worker is advancing it at the moment.
        if sleep(0 if has_more else POLL_SECONDS):
            raise KeyboardInterrupt


def wait(command: Command, redeliveries: Sequence[Redelivery], sleep: Sleep) -> None:
    """Wait until every delivery has a result or is held; raises KeyboardInterrupt as queue()."""
    command.warn_if_nothing_is_sent()
    for redelivery in redeliveries:
        while not (now := redelivery_progress.progress(redelivery)).is_answered:
            command.progress(_progress_line(redelivery, now))
            if sleep(POLL_SECONDS):
                raise KeyboardInterrupt
            redelivery.refresh_from_db()
    command.end_progress()


def _progress_line(redelivery: Redelivery, now: Progress) -> str:
    done = now.succeeded + now.failed + now.retrying + now.held
    seconds = max((datetime.now(UTC) - redelivery.created_at).total_seconds(), 0.001)
    return (
        f"{redelivery.public_id} {bar(done, now.queued)}  ok {now.succeeded:,}  "
        f"failed {now.failed + now.retrying:,}  {done / seconds:,.1f}/s"
    )


def report(
    command: Command, redeliveries: Sequence[Redelivery], *, as_json: bool, is_awaited: bool
) -> bool:
    """Print the results and return whether they are all good.

    They are not if a redelivery failed or, where the command waited, a delivery did not succeed.
    """
    progress = [redelivery_progress.progress(each) for each in redeliveries]
    pairs = list(zip(redeliveries, progress, strict=True))
    if as_json:
        documents = [_document(each, now) for each, now in pairs]
        command.show_json(documents[0] if len(documents) == 1 else documents)
    else:
        for each, now in pairs:
            _show(command, each, now, is_awaited)
    has_failed = any(each.status == Redelivery.Status.FAILED for each in redeliveries)
    return not has_failed and not (
        is_awaited and any(now.succeeded < now.queued for now in progress)
    )


def _show(command: Command, redelivery: Redelivery, now: Progress, is_awaited: bool) -> None:
    public_id = redelivery.public_id
    if redelivery.error:
        status = redelivery.get_status_display().lower()
        command.say(f"{public_id} {status}: {redelivery.error}")
    if not is_awaited:
        command.show(
            f"{public_id}: {counted(now.queued, 'delivery', 'deliveries')} queued. "
            f"See manage.py redeliver --resume {public_id} --wait"
        )
        return
    rows = [
        [
            WEBHOOK_PREFIX + part.webhook_id.hex, part.name, f"{part.queued:,}",
            f"{part.succeeded:,}", f"{part.failed:,}", f"{part.retrying:,}", f"{part.held:,}",
            part.last_error,
        ]
        for part in redelivery_progress.outcomes(redelivery)
    ]  # fmt: skip
    for line in table(HEADER, rows, right=NUMBERS):
        command.show(line)
    held = f", {now.held:,} held back" if now.held else ""
    command.show(
        f"{public_id}: {now.queued:,} queued, {now.succeeded:,} succeeded, "
        f"{now.failed:,} failed, {now.retrying:,} to be retried{held}."
    )
    if now.held:
        command.say(
            "Deliveries are held back while their webhook is disabled, keeps failing or sent "
            "Retry-After, while its owner is not active, or while all sending is paused."
        )


def _document(redelivery: Redelivery, now: Progress) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": redelivery.public_id,
        "status": redelivery.status,
        "matched": now.matched,
        "queued": now.queued,
        "succeeded": now.succeeded,
        "failed": now.failed,
        "retrying": now.retrying,
        "held": now.held,
    }
    if warnings := redelivery_scope.warnings_of(redelivery_scope.scope_of(redelivery)):
        document["warnings"] = warnings
    if redelivery.error:
        document["error"] = redelivery.error
    return document
