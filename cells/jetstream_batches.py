"""Publishing to JetStream, in atomic batches."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from uuid import uuid4

from nats.aio.client import Client
from nats.js import JetStreamContext, api

from cells.log import Entry, LogError

ANSWER_SECONDS = 5.0
BATCH_MESSAGES = 1000
"""The most that JetStream takes in one batch."""
BATCH_BYTES = 8 * 1024 * 1024
CONTAINS_DUPLICATE = 10201
"""JetStream's error for a batch with an id that is stored already."""


def stream_name(stream: int) -> str:
    return f"EVENTS-{stream}"


async def publish_all(
    client: Client, js: JetStreamContext, streams: Mapping[int, Sequence[Entry]]
) -> None:
    """Append entries to streams as cells.log.Log.publish() does; raises LogError and NATS' errors."""

    async def publish(stream: int, entries: Sequence[Entry]) -> None:
        for batch in _batches(entries):
            await _publish(client, js, stream, batch)

    # All come to an end: a task that went on alone could meet the next try.
    ends = await asyncio.gather(*(publish(*one) for one in streams.items()), return_exceptions=True)
    for problem in ends:
        if problem is not None:
            raise problem


async def _publish(
    client: Client, js: JetStreamContext, stream: int, batch: Sequence[Entry]
) -> None:
    name = uuid4().hex
    for number, entry in enumerate(batch, 1):
        headers = {
            api.Header.MSG_ID: entry.id,
            api.Header.BATCH_ID: name,
            api.Header.BATCH_SEQUENCE: str(number),
            **entry.headers,
        }
        subject = f"events.{stream}.{entry.slot}.relay"
        if number < len(batch):
            await client.publish(subject, entry.data, headers=headers)
    headers[api.Header.BATCH_COMMIT] = "1"
    answer = await client.request(subject, entry.data, timeout=ANSWER_SECONDS, headers=headers)
    error = json.loads(answer.data).get("error")
    if error is None:
        return
    if error.get("err_code") != CONTAINS_DUPLICATE:
        raise LogError(f"Stream {stream} refused a batch: {error.get('description')}.")
    # A relay died between storing these and noting it. One by one, the known ones are dropped.
    for entry in batch:
        await js.publish(
            f"events.{stream}.{entry.slot}.relay",
            entry.data,
            headers={api.Header.MSG_ID: entry.id, **entry.headers},
        )


def _batches(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    batch: list[Entry] = []
    size_bytes = 0
    for entry in entries:
        if batch and (len(batch) == BATCH_MESSAGES or size_bytes + len(entry.data) > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(entry)
        size_bytes += len(entry.data)
    if batch:
        yield batch
