"""The log in NATS JetStream.

nats-py runs on an event loop, which has a thread of its own here: callers just wait. Batches go out as
JetStream's atomic batches: a leader that changes in the middle of single publishes could store a later
one without an earlier one, and a webhook would get its events out of order.
"""

import asyncio
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NotFoundError,
)

from cells.log import Bounds, Entry, LogError, MapChangedError, Message, Reader, Refusal

logger = logging.getLogger(__name__)

T = TypeVar("T")

REPLICAS = 3
"""Of every stream and of the map, where there are as many servers; 1 where there is one."""
ANSWER_SECONDS = 5.0
CONNECT_SECONDS = 30.0
PUBLISH_SECONDS = 60.0
DUPLICATE_SECONDS = 120
"""How long the log remembers ids. What comes again later is recognized by the cell."""
KEEP_SECONDS = 7 * 24 * 3600
"""How long it keeps messages: a cell that is down for longer loses events."""
BATCH_MESSAGES = 1000
"""The most that JetStream takes in one batch."""
BATCH_BYTES = 8 * 1024 * 1024
CONTAINS_DUPLICATE = 10201
"""JetStream's error for a batch with an id that is stored already."""
MAP_BUCKET = "cells"
MAP_KEY = "map"
DEAD = "DEAD"


def stream_name(stream: int) -> str:
    return f"EVENTS-{stream}"


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
            self._wait(
                self._add_stream(
                    stream_name(number),
                    [f"events.{number}.>"],
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

    def clear(self) -> None:
        """Delete all streams, with all events and the map: for tests and the demo."""
        for info in self._wait(self._js.streams_info()):
            self._wait(self._js.delete_stream(info.config.name or ""))

    # Publishing.

    def publish(self, streams: Mapping[int, Sequence[Entry]]) -> None:
        self._wait(self._publish_all(streams), PUBLISH_SECONDS)

    async def _publish_all(self, streams: Mapping[int, Sequence[Entry]]) -> None:
        async def publish(stream: int, entries: Sequence[Entry]) -> None:
            for batch in _batches(entries):
                await self._publish(stream, batch)

        # All come to an end: a task that went on alone could meet the next try.
        ends = await asyncio.gather(
            *(publish(*one) for one in streams.items()), return_exceptions=True
        )
        for problem in ends:
            if problem is not None:
                raise problem

    async def _publish(self, stream: int, batch: Sequence[Entry]) -> None:
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
                await self._client.publish(subject, entry.data, headers=headers)
        headers[api.Header.BATCH_COMMIT] = "1"
        answer = await self._client.request(
            subject, entry.data, timeout=ANSWER_SECONDS, headers=headers
        )
        error = json.loads(answer.data).get("error")
        if error is None:
            return
        if error.get("err_code") != CONTAINS_DUPLICATE:
            raise LogError(f"Stream {stream} refused a batch: {error.get('description')}.")
        # A relay died between storing these and noting it. One by one, the known ones are dropped.
        for entry in batch:
            await self._js.publish(
                f"events.{stream}.{entry.slot}.relay",
                entry.data,
                headers={api.Header.MSG_ID: entry.id, **entry.headers},
            )

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

    def refuse(self, message: Message, reason: str) -> None:
        headers = {
            api.Header.MSG_ID: f"{message.stream}.{message.position}",
            "Reason": " ".join(reason.encode("ascii", "replace").decode().split())[:500],
            "Message-Id": message.id,
        }
        subject = f"dead.{message.slot}"
        self._wait(self._js.publish(subject, message.data, headers=headers))

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
        with _log_errors():
            try:
                return future.result(seconds)
            finally:
                future.cancel()


class JetStreamReader:
    """Pulls messages from the streams ahead of take(), one consumer for each.

    The consumers are temporary and remember nothing that matters: one that is lost with its server, or
    whose messages do not follow one another, is made anew after the last message that came.
    """

    PULL_MESSAGES = 500
    PULL_SECONDS = 2.0
    AHEAD_MESSAGES = 2000

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: Client,
        js: JetStreamContext,
        after: Mapping[int, int],
    ) -> None:
        self._loop = loop
        self._client = client
        self._js = js
        self._read: deque[Message] = deque()
        self._arrived = threading.Event()
        self._tasks = [
            asyncio.run_coroutine_threadsafe(self._keep_reading(stream, position), loop)
            for stream, position in after.items()
        ]

    def take(self, limit: int, seconds: float) -> list[Message]:
        self._arrived.clear()
        if not self._read:
            self._arrived.wait(seconds)
        return [self._read.popleft() for _ in range(min(limit, len(self._read)))]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _keep_reading(self, stream: int, position: int) -> None:
        while True:
            pull = Pull(stream, position, self._take_in)
            try:
                await self._pull(pull)
            except (TimeoutError, nats.errors.Error, OSError) as problem:
                logger.info("Stream %d is read anew: %r", stream, problem)
                await asyncio.sleep(0.2)
            position = pull.position

    async def _pull(self, pull: "Pull") -> None:
        name = stream_name(pull.stream)
        config = api.ConsumerConfig(
            ack_policy=api.AckPolicy.NONE,
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=pull.position + 1,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=30,
        )
        consumer = (await self._js.add_consumer(name, config)).name
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(
            inbox, cb=pull.hear, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        request = {
            "batch": self.PULL_MESSAGES,
            "expires": int(self.PULL_SECONDS * 1e9),
        }
        try:
            while not pull.is_broken:
                while len(self._read) >= self.AHEAD_MESSAGES:
                    await asyncio.sleep(0.01)
                pull.begin(self.PULL_MESSAGES)
                await self._client.publish(
                    f"$JS.API.CONSUMER.MSG.NEXT.{name}.{consumer}",
                    json.dumps(request).encode(),
                    reply=inbox,
                )
                await asyncio.wait_for(pull.ended.wait(), self.PULL_SECONDS + ANSWER_SECONDS)
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def _take_in(self, message: Message) -> None:
        self._read.append(message)
        self._arrived.set()


class Pull:
    """What one consumer has sent."""

    def __init__(self, stream: int, position: int, take_in: Callable[[Message], None]) -> None:
        self.stream = stream
        self.position = position
        """Of the last message."""
        self.is_broken = False
        """Whether the consumer is gone, or has left out a message."""
        self.ended = asyncio.Event()
        self._take_in = take_in
        self._numbers = count(1)
        self._left = 0

    def begin(self, messages: int) -> None:
        self._left = messages
        self.ended.clear()

    async def hear(self, message: Msg) -> None:
        headers = message.headers or {}
        if status := headers.get("Status"):
            # 408: the time of the pull is over. Anything else: of a consumer that is gone.
            self.is_broken = self.is_broken or status not in ("408", "100")
            if status != "100":
                self.ended.set()
            return
        at = message.metadata.sequence
        if self.is_broken or at.consumer != next(self._numbers):
            self.is_broken = True
            self.ended.set()
            return
        self.position = at.stream
        _, _, slot, source = message.subject.split(".", 3)
        self._take_in(
            Message(
                self.stream,
                at.stream,
                headers.get(api.Header.MSG_ID, ""),
                int(slot) if slot.isdecimal() else -1,
                source != "relay",
                headers,
                message.data,
            )
        )
        self._left -= 1
        if not self._left:
            self.ended.set()


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


@contextmanager
def _log_errors() -> Iterator[None]:
    try:
        yield
    except (nats.errors.Error, APIError, OSError, TimeoutError) as problem:
        raise LogError(
            f"The log does not answer: {type(problem).__name__} {problem}".strip()
        ) from problem


async def _note(problem: Exception) -> None:
    logger.info("NATS: %r", problem)
