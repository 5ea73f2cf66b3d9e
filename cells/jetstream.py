"""The log in NATS JetStream.

nats-py runs on an event loop, which has a thread of its own here: callers just wait. Batches go out as
JetStream's atomic batches: a leader that changes in the middle of single publishes could store a later
one without an earlier one, and a webhook would get its events out of order.
"""

import asyncio
import logging
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NotFoundError,
)

from cells.jetstream_batches import ANSWER_SECONDS, BATCH_BYTES, publish_all, stream_name
from cells.jetstream_reader import JetStreamReader
from cells.log import (
    Bounds,
    Entry,
    LogClosedError,
    LogError,
    MapChangedError,
    Message,
    Reader,
    Refusal,
)
from cells.slots import SLOTS, stream_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

REPLICAS = 3
"""Of every stream and of the map, where there are as many servers; 1 where there is one."""
CONNECT_SECONDS = 30.0
PUBLISH_SECONDS = 60.0
DUPLICATE_SECONDS = 120
"""How long the log remembers ids. What comes again later is recognized by the cell."""
KEEP_SECONDS = 7 * 24 * 3600
"""How long it keeps messages: a cell that is down for longer loses events."""
MAP_BUCKET = "cells"
MAP_KEY = "map"
DEAD = "DEAD"
MOST_ID_CHARACTERS = 100
ROOM_BYTES = 2048
"""For the headers of a dead letter."""


class JetStream:
    """See cells.log.Log. `url` names all servers, comma-separated. Raises LogError."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="log", daemon=True)
        self._thread.start()
        self._client = Client()
        try:
            self._wait(self._connect(url.split(",")), CONNECT_SECONDS)
        except LogError:
            self.close()
            raise
        self._js: JetStreamContext = self._client.jetstream(timeout=ANSWER_SECONDS)

    async def _connect(self, servers: list[str]) -> None:
        await self._client.connect(
            servers,
            connect_timeout=2,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            # A batch and more may wait for the connection to come back.
            pending_size=4 * BATCH_BYTES,
            ping_interval=5,
            max_outstanding_pings=1,
            error_cb=_note,
        )

    def close(self) -> None:
        with suppress(LogError):
            self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self._client.close()
        readers = asyncio.all_tasks() - {asyncio.current_task()}
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    def create(self, streams: int) -> None:
        for number in range(streams):
            slots = [slot for slot in range(SLOTS) if stream_of(slot, streams) == number]
            self._wait(
                self._add_stream(
                    stream_name(number),
                    # A producer that takes a wrong stream must learn it: no cell looks for a slot there.
                    [f"events.{number}.{slot}.>" for slot in slots],
                    max_age=KEEP_SECONDS,
                    duplicate_window=DUPLICATE_SECONDS,
                    allow_atomic=True,
                )
            )
        self._wait(self._add_stream(DEAD, ["dead.>"], duplicate_window=DUPLICATE_SECONDS))
        self._wait(self._bucket())

    async def _add_stream(self, name: str, subjects: list[str], **options: Any) -> None:
        try:
            await self._js.stream_info(name)
        except NotFoundError:
            config = api.StreamConfig(
                name=name, subjects=subjects, num_replicas=self._replicas, **options
            )
            await self._js.add_stream(config)

    @property
    def _replicas(self) -> int:
        return min(REPLICAS, len(self._client.servers))

    # Publishing.

    def publish(self, streams: Mapping[int, Sequence[Entry]]) -> None:
        self._wait(publish_all(self._client, self._js, streams), PUBLISH_SECONDS)

    # Reading.

    def reader(self, after: Mapping[int, int]) -> Reader:
        return JetStreamReader(self._loop, self._client, self._js, after)

    def bounds(self, stream: int) -> Bounds:
        state = self._wait(self._js.stream_info(stream_name(stream))).state
        return Bounds(state.first_seq, state.last_seq)

    # The map.

    async def _bucket(self) -> Any:
        try:
            return await self._js.key_value(MAP_BUCKET)
        except BucketNotFoundError:
            return await self._js.create_key_value(
                bucket=MAP_BUCKET, history=64, replicas=self._replicas
            )

    def read_map(self) -> tuple[bytes, int]:
        return self._wait(self._read_map())

    async def _read_map(self) -> tuple[bytes, int]:
        try:
            # From the stream's leader: a follower may be behind, and compare-and-swap needs the latest.
            bucket = await self._js.key_value(MAP_BUCKET)
            bucket._direct = False
            entry = await bucket.get(MAP_KEY)
        except (BucketNotFoundError, KeyNotFoundError):
            return b"", 0
        return entry.value or b"", entry.revision or 0

    def write_map(self, value: bytes, revision: int) -> int:
        return self._wait(self._write_map(value, revision))

    async def _write_map(self, value: bytes, revision: int) -> int:
        bucket = await self._bucket()
        try:
            return int(await bucket.update(MAP_KEY, value, last=revision))
        except KeyWrongLastSequenceError:
            raise MapChangedError from None

    # Dead letters.

    def refuse(self, reasons: Sequence[tuple[Message, str]]) -> None:
        if reasons:
            self._wait(self._refuse(reasons), PUBLISH_SECONDS)

    async def _refuse(self, reasons: Sequence[tuple[Message, str]]) -> None:
        # Together: a producer that is wrong about everything must not hold up the others.
        await asyncio.gather(*(self._refuse_one(*one) for one in reasons))

    async def _refuse_one(self, message: Message, reason: str) -> None:
        headers = {
            api.Header.MSG_ID: f"{message.stream}.{message.position}",
            "Reason": " ".join(reason.encode("ascii", "replace").decode().split())[:500],
            "Message-Id": message.id[:MOST_ID_CHARACTERS],
        }
        # A message of the largest size would not fit with these headers, and would be tried for ever.
        data = message.data[: self._client.max_payload - ROOM_BYTES]
        await self._js.publish(f"dead.{message.slot}", data, headers=headers)

    def refusals(self, limit: int) -> tuple[int, list[Refusal]]:
        return self._wait(self._refusals(limit), 4 * ANSWER_SECONDS)

    async def _refusals(self, limit: int) -> tuple[int, list[Refusal]]:
        state = (await self._js.stream_info(DEAD)).state
        found = []
        oldest = max(state.first_seq, state.last_seq - limit + 1, 1)
        for position in range(state.last_seq, oldest - 1, -1):
            with suppress(NotFoundError):
                message = await self._js.get_msg(DEAD, seq=position)
                headers = message.headers or {}
                found.append(
                    Refusal(
                        position,
                        headers.get("Reason", ""),
                        headers.get("Message-Id", ""),
                        message.data or b"",
                    )
                )
        return state.messages, found

    def _wait(self, work: Coroutine[Any, Any, T], seconds: float = 2 * ANSWER_SECONDS) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        with self._log_errors():
            try:
                return future.result(seconds)
            finally:
                future.cancel()

    @contextmanager
    def _log_errors(self) -> Iterator[None]:
        try:
            yield
        except (nats.errors.Error, APIError, OSError, TimeoutError) as problem:
            if self._client.is_closed:
                # nats-py does not connect again after a server's error, such as expired credentials.
                told = self._client.last_error or problem
                raise LogClosedError(f"The log has ended the connection: {told}") from problem
            raise LogError(
                f"The log does not answer: {type(problem).__name__} {problem}".strip()
            ) from problem


async def _note(problem: Exception) -> None:
    logger.info("NATS: %r", problem)
