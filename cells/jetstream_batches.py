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
    if not client.is_connected:
        raise LogError("The connection to the log is lost.")
    name = uuid4().hex
    commands = [
        _command(f"events.{stream}.{entry.slot}.relay", entry, _headers(entry, name, number))
        for number, entry in enumerate(batch[:-1], 1)
    ]
    # All but the last at once: publish() looks at every header again, which takes a third of the time
    # of a relay. The request below sends them before itself.
    if commands:
        await client._send_command(b"".join(commands))
    entry = batch[-1]
    subject, headers = f"events.{stream}.{entry.slot}.relay", _headers(entry, name, len(batch))
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


def _headers(entry: Entry, batch: str, number: int) -> dict[str, str]:
    return {
        api.Header.MSG_ID.value: entry.id,
        api.Header.BATCH_ID.value: batch,
        api.Header.BATCH_SEQUENCE.value: str(number),
        **entry.headers,
    }


def _command(subject: str, entry: Entry, headers: Mapping[str, str]) -> bytes:
    """Return what publish() of nats-py sends for a message."""
    lines = [f"{name}: {_one_line(value)}\r\n" for name, value in headers.items()]
    head = f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()
    size = len(head) + len(entry.data)
    return b"HPUB %b  %d %d\r\n%b%b\r\n" % (
        subject.encode(), len(head), size, head, entry.data,
    )  # fmt: skip


def _one_line(value: str) -> str:
    """Return a header's value as nats-py sends it, which no value can end."""
    return value.strip().replace("\r", " ").replace("\n", " ")


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
