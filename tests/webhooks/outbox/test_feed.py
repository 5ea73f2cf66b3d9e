"""The feed has no gaps and no repeats, however transactions overlap (invariant 13)."""

from typing import Any

import psycopg
import pytest
from django.db import transaction

from projects.models import User
from tests.concurrency import another_connection
from tests.webhooks.history import DELETED
from webhooks import service
from webhooks.errors import CursorInvalidError, EventTypeUnknownError
from webhooks.models import Event
from webhooks.outbox import feed
from webhooks.outbox.feed import Cursor

pytestmark = pytest.mark.django_db(transaction=True)


def trigger(owner: User, count: int = 1) -> list[str]:
    triggers = [service.Trigger("project.deleted", owner, DELETED)] * count
    return [event.public_id for event in service.trigger_events(triggers)]


def read_all(after: str, **options: Any) -> tuple[list[str], str]:
    found: list[str] = []
    while True:
        page = feed.read(after, **options)
        found += [event.id for event in page.events]
        after = page.next
        if not page.has_more:
            return found, after


def insert_event(other: psycopg.Connection[Any]) -> None:
    other.execute(
        "INSERT INTO webhooks_event (id, type, payload, fanout_count, object_reference)"
        " VALUES (gen_random_uuid(), 'project.deleted', '{}', 0, '')"
    )


def test_starts_now_and_continues_from_its_cursor(user: User) -> None:
    trigger(user)
    start = feed.read(None)
    first = trigger(user, 2)

    page = feed.read(start.next)
    second = trigger(user)
    rest = feed.read(page.next)

    assert start.events == []
    assert [event.id for event in page.events] == first
    assert [event.id for event in rest.events] == second
    assert feed.read(rest.next) == feed.Page([], rest.next, has_more=False)


def test_page_of_large_events_is_short(user: User) -> None:
    start = feed.read(None).next
    wanted = trigger(user, 40)
    Event.objects.update(payload=b"x" * 256 * 1024)

    page = feed.read(start)
    everything, _ = read_all(start)

    assert len(page.events) == feed.MAX_PAGE_BYTES // (256 * 1024)
    assert page.has_more
    assert everything == wanted


def test_events_carry_the_bytes_that_webhooks_get(user: User) -> None:
    start = feed.read(None).next
    trigger(user)

    (event,) = feed.read(start).events

    stored = Event.objects.get(type="project.deleted")
    assert (event.type, event.payload) == ("project.deleted", bytes(stored.payload))
    assert event.created_at == stored.created_at


def test_waits_for_older_transactions_and_then_returns_all_in_order(user: User) -> None:
    start = feed.read(None).next
    with another_connection() as other:
        insert_event(other)
        trigger(user)
        held_back = feed.read(start)
        other.commit()

    page = feed.read(held_back.next)

    assert held_back.events == []
    assert len(page.events) == 2
    assert len(feed.read(start).events) == 2


def test_rolled_back_transaction_does_not_delay_the_feed(user: User) -> None:
    start = feed.read(None).next
    with another_connection() as other:
        insert_event(other)
        other.rollback()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        trigger(user)
        _ = 1 / 0
    kept = trigger(user)

    assert [event.id for event in feed.read(start).events] == kept


def test_owner_sees_only_its_own_and_the_cursor_still_moves(
    user: User, other_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_SCANNED", 10)
    start = feed.read(None).next
    trigger(other_user, 25)
    mine = trigger(user, 2)
    trigger(other_user, 3)

    first = feed.read(start, owner_id=user.id)

    assert (first.events, first.has_more) == ([], True)
    assert read_all(start, owner_id=user.id)[0] == mine


def test_pages_join_without_gap_or_repeat(user: User) -> None:
    start = feed.read(None).next
    expected = trigger(user, 3) + trigger(user, 4)

    assert read_all(start, limit=2)[0] == expected


def test_patterns_select_types(user: User) -> None:
    start = feed.read(None).next
    deleted = trigger(user)
    service.trigger_event("webhook.test", user, {"webhookId": "w", "message": "m"})

    assert read_all(start, patterns=["project.*"])[0] == deleted
    assert len(read_all(start, patterns=["webhook.test", "project.deleted"])[0]) == 2
    assert read_all(start, patterns=["session.*"])[0] == []


def test_unknown_pattern_is_refused(db: None) -> None:
    with pytest.raises(
        EventTypeUnknownError, match=r"select no event type: billing\.\*, nothing\."
    ):
        feed.read(None, patterns=["nothing", "*", "billing.*"])


def test_events_with_erased_payloads_are_left_out(user: User) -> None:
    start = feed.read(None).next
    trigger(user)
    Event.objects.update(payload=b"")
    kept = trigger(user)

    assert read_all(start)[0] == kept


@pytest.mark.parametrize("text", ["", "x", "MQ", "LTEuMQ", "MS4xLjE", "é", "MS4x=", "MDEuMQ"])
def test_invalid_cursor_is_refused(text: str) -> None:
    with pytest.raises(CursorInvalidError):
        Cursor.from_text(text)


def test_cursor_equals_itself_after_a_round_trip_as_text() -> None:
    cursor = Cursor(12345678901, 42)

    assert Cursor.from_text(cursor.to_text()) == cursor


def test_one_statement_for_any_number_of_events(user: User, django_assert_num_queries: Any) -> None:
    start = feed.read(None).next
    trigger(user, 50)

    with django_assert_num_queries(1):
        assert len(feed.read(start).events) == 50
