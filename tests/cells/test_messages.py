"""Events as messages: the bytes stay, and what is wrong says why. No server is needed."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cells.cellmap import CellMap
from cells.log import Message
from cells.messages import RefusedError, entry_of, event_of
from cells.slots import slot_of, stream_of
from webhooks.ids import new_id
from webhooks.models import Event
from webhooks.outbox.feed import FeedEvent
from webhooks.outbox.store import build_event

OWNER = new_id()


def relayed(event: Event, **changes: Any) -> Message:
    fed = FeedEvent(
        event.public_id, event.type, event.created_at, bytes(event.payload), event.owner_id,
        event.object_reference, event.is_self_reported, event.version,
    )  # fmt: skip
    entry = entry_of(fed)
    message = Message(0, 1, entry.id, entry.slot, False, entry.headers, entry.data)
    return message._replace(**changes)


@pytest.mark.parametrize("reference", ["", "p 1", "Zoë\n%2F🚀"])
@pytest.mark.parametrize("owner", [OWNER, None])
def test_an_event_comes_back_the_same(reference: str, owner: Any) -> None:
    made_at = datetime(2026, 11, 23, 10, 30, 0, 123_000, UTC)
    event = build_event(
        "session.ended", owner, '{"z":1.0,"a":"ö \\u2028"}'.encode(), created_at=made_at
    )
    event.object_reference, event.is_self_reported = reference, bool(reference)

    back = event_of(relayed(event))

    names = [
        "id", "type", "owner_id", "payload", "version", "object_reference", "is_self_reported",
        "created_at",
    ]  # fmt: skip
    assert [getattr(back, name) for name in names] == [getattr(event, name) for name in names]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "evt_other"}, "message id"),
        ({"headers": {}}, "Owner is missing"),
        ({"headers": {"Owner": "somebody"}}, "badly formed"),
        ({"slot": slot_of(OWNER) ^ 1}, "slot is"),
        ({"data": b"{}"}, "not those of an event"),
    ],
)
def test_a_wrong_message_says_what_is_wrong(changes: dict[str, Any], reason: str) -> None:
    message = relayed(build_event("session.ended", OWNER, b"{}"), **changes)

    with pytest.raises(RefusedError, match=reason):
        event_of(message)


def direct(document: str) -> Message:
    headers = {"Owner": str(OWNER)}
    return Message(0, 1, f"evt_{OWNER.hex}", slot_of(OWNER), True, headers, document.encode())


def paid(**changes: Any) -> str:
    data = {"id": "pay_1", "subscriptionId": None, "amount": 1, "currency": "EUR"}
    data["paidAt"] = created = "2026-11-23T10:30:00.000Z"
    document = {"id": f"evt_{OWNER.hex}", "type": "payment.succeeded", "created": created}
    return json.dumps(document | {"data": data} | changes)


@pytest.mark.parametrize(
    "document",
    [
        "[" * 500_000,
        '{"a":' * 100_000,
        paid(created="0001-01-01T00:00:00+14:00"),
        paid(created="9999-12-31T23:59:59-14:00"),
    ],
    ids=["lists", "objects", "before all times", "after all times"],
)
def test_what_no_parser_bears_is_refused(document: str) -> None:
    with pytest.raises(RefusedError, match=r"recursion|out of range"):
        event_of(direct(document))


@pytest.mark.parametrize("streams", [1, 2, 3, 16, 256])
def test_streams_share_the_slots(streams: int) -> None:
    shares = [stream_of(slot, streams) for slot in range(256)]

    assert shares == sorted(shares)
    assert set(shares) == set(range(streams))


def test_a_map_survives_being_written() -> None:
    first = CellMap.of(4, {"a": "https://a", "b": "https://b", "c": "https://c"})
    moved = first.begin_move(7, "b").grant(7, "b", 99)

    assert [len(first.of_cell(cell)) for cell in "abc"] == [86, 85, 85]
    assert CellMap.from_json(moved.to_json(), 0) == moved
    assert (moved.slots[7], moved.since[7], moved.moves[7]) == ("b", 99, ["a", "b"])
    assert moved.end_move(7).moves == {}
