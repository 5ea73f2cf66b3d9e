"""Random bodies, signed as the dispatcher signs them."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from webhooks.wire.signing import Key, sign_standard


@dataclass(frozen=True)
class SignedBody:
    headers: dict[str, str]
    body: bytes


def signed_bodies(keys: Sequence[Key], count: int, seed: int) -> Iterator[SignedBody]:
    """JSON and plain text in every script, with controls; empty ones among them."""
    dice = random.Random(seed)
    now = int(time.time())
    for number in range(count):
        text = "".join(chr(_code_point(dice)) for _ in range(dice.randrange(60)))
        body = dice.choice((text, f'{{"text":"{text}","n":{dice.getrandbits(80)}}}')).encode()
        event_id = f"evt_{number}"
        yield SignedBody(
            {
                "webhook-id": event_id,
                "webhook-timestamp": str(now),
                "webhook-signature": sign_standard(keys, event_id, now, body),
            },
            body,
        )


def _code_point(dice: random.Random) -> int:
    ranges = (range(128), range(0x80, 0xD800), range(0xE000, 0x110000))
    return dice.choice(dice.choice(ranges))
