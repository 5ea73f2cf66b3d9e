"""Reading from JetStream, ahead of whoever takes the messages."""

import asyncio
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from cells.jetstream_batches import ANSWER_SECONDS, stream_name
from cells.log import Message

logger = logging.getLogger(__name__)


class JetStreamReader:
    """Pulls messages from the streams ahead of take(), one consumer for each.

    The consumers are temporary and remember nothing that matters: one that is lost with its server, or
    whose messages do not follow one another, is made anew after the last message that came.
    """

    PULL_MESSAGES = 500
    PULL_SECONDS = 2.0
    PULL_BYTES = 2 * 1024 * 1024
    """Or twice the largest message, which alone must fit."""
    AHEAD_MESSAGES = 2000
    AHEAD_BYTES = 16 * 1024 * 1024
    TAKE_BYTES = 4 * 1024 * 1024
    """No message is taken beyond them: a page of the largest events would be a quarter of a gigabyte."""

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
        # Of messages: read by the loop's thread, taken by the caller's.
        self._read_bytes = self._taken_bytes = 0
        self._arrived = threading.Event()
        self._tasks = [
            asyncio.run_coroutine_threadsafe(self._keep_reading(stream, position), loop)
            for stream, position in after.items()
        ]

    def take(self, limit: int, seconds: float) -> list[Message]:
        self._arrived.clear()
        if not self._read:
            self._arrived.wait(seconds)
        taken: list[Message] = []
        most = self._taken_bytes + self.TAKE_BYTES
        while self._read and len(taken) < limit and self._taken_bytes < most:
            taken.append(self._read.popleft())
            self._taken_bytes += len(taken[-1].data)
        return taken

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _keep_reading(self, stream: int, position: int) -> None:
        while True:
            pull = Pull(stream, position, self._take_in)
            try:
                await self._pull(pull)
            except Exception as problem:  # whatever it is: nobody else would read the stream
                logger.warning("Stream %d is read anew: %r", stream, problem)
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
            "max_bytes": max(self.PULL_BYTES, 2 * self._client.max_payload),
        }
        try:
            while not pull.is_broken:
                while self._is_far_ahead:
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

    @property
    def _is_far_ahead(self) -> bool:
        ahead_bytes = self._read_bytes - self._taken_bytes
        return len(self._read) >= self.AHEAD_MESSAGES or ahead_bytes >= self.AHEAD_BYTES

    def _take_in(self, message: Message) -> None:
        self._read_bytes += len(message.data)
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
            # 408: the time of the pull is over, or its bytes. Anything else: of a consumer that is gone.
            is_full = status == "409" and "MaxBytes" in headers.get("Description", "")
            self.is_broken = self.is_broken or not (is_full or status in ("408", "100"))
            if status != "100":
                self.ended.set()
            return
        position, number = _places(message.reply)
        if self.is_broken or number != next(self._numbers):
            self.is_broken = True
            self.ended.set()
            return
        self.position = position
        # A log made before each stream had the subjects of its slots only may hold shorter ones.
        slot, _, source = message.subject.split(".", 2)[2].partition(".")
        self._take_in(
            Message(
                self.stream,
                position,
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


def _places(reply: str) -> tuple[int, int]:
    """Return a message's position in its stream and its number among those of the consumer.

    The subject for the acknowledgement has both: `$JS.ACK.<stream>.<consumer>.<deliveries>.<position>.
    <number>.<time>.<pending>`, with the domain and the account before the stream where there is a
    domain. nats-py makes four objects of it, which takes 5 us.
    """
    parts = reply.split(".")
    first = 5 if len(parts) == 9 else 7
    return int(parts[first]), int(parts[first + 1])
