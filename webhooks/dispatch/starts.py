"""The desk between a claimed row and the wire: line up, start, take back.

A request is built and signed when it is handed to libcurl, with the webhook's settings at that time
(invariant 12). The settings must be fresh; stale ones are read again first. Rows of a webhook that
may get no requests any more are given back.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import date
from functools import partial
from uuid import UUID

from django.conf import settings

from webhooks.dispatch.batches import (
    Batch,
    Gathering,
    Sendable,
    all_rows,
    goes_in_batch,
    rows_of,
    trace_of,
)
from webhooks.dispatch.desk import Errand
from webhooks.dispatch.endpoints import MAX_AGE_SECONDS, Endpoint, Endpoints
from webhooks.dispatch.flight import Flight, Sent
from webhooks.dispatch.lease import Lease
from webhooks.dispatch.returns import Returns
from webhooks.dispatch.take import Taken
from webhooks.ids import new_id
from webhooks.wire.many import MultiSender
from webhooks.wire.messages import Draft, Post
from webhooks.wire.request import build_batch, build_formed_request, build_request
from webhooks.wire.trace_context import of_attempt

STARTS_AT_ONCE = 32
"""Between two looks at the sockets, so that responses do not wait."""
OFF_DELAY_SECONDS = 1.0
"""How long to defer rows of a webhook that was disabled after they were claimed."""


class Starts:
    """Starts the requests of one life of a worker."""

    def __init__(
        self,
        submit: Callable[..., Future[None]],
        *,
        flight: Flight,
        endpoints: Endpoints,
        sender: MultiSender,
        lease: Lease,
        returns: Returns,
    ) -> None:
        self._submit = submit
        self._flight = flight
        self._endpoints = endpoints
        self._sender = sender
        self._lease = lease
        self._returns = returns
        self._errand: Errand[None] = Errand("reading of webhooks")
        self._gathering = Gathering()
        self._stale: list[Sendable] = []
        """Rows whose webhook has to be read anew before they start."""
        self._refresh_at = 0.0
        self._sends_traceparent = settings.WEBHOOKS_TRACING and settings.WEBHOOKS_SEND_TRACEPARENT
        self.clock_offset = 0.0
        """From the monotonic clock to the database's."""

    @property
    def can_start(self) -> bool:
        """Whether start() would start or give back something now."""
        return self._flight.ready > 0 and self._lease.is_safe

    def line_up(self, taken: Taken) -> None:
        """Hold what a claim took until its turn comes."""
        lone = [*taken.deliveries, *taken.of_objects]
        self._flight.took(lone)
        now = time.monotonic()
        for delivery in lone:
            endpoint = self._endpoints.last(delivery.webhook_id)
            if endpoint is not None and goes_in_batch(delivery, endpoint):
                self._flight.gather(delivery)
                self._line_up_batches(self._gathering.add(delivery, endpoint, now))
            else:
                self._flight.line_up(delivery, None if endpoint is None else endpoint.owner_id)
        self._line_up_batches(self._gathering.take_due(now))
        for webhook_id, rows in taken.runs.items():
            self._flight.took(rows)
            self._flight.line_up_run(rows, self._owner_of(webhook_id))

    def _line_up_batches(self, batches: list[Batch]) -> None:
        for batch in batches:
            self._flight.line_up_batch(batch, self._owner_of(batch.webhook_id))

    def _owner_of(self, webhook_id: UUID) -> UUID | None:
        endpoint = self._endpoints.last(webhook_id)
        return None if endpoint is None else endpoint.owner_id

    def start(self) -> None:
        """Start some of what is ready; give it back where it must not start any more."""
        for delivery in self._flight.next_ready(STARTS_AT_ONCE):
            endpoint = self._endpoints.get(delivery.webhook_id)
            if endpoint is not None:
                self._start(delivery, endpoint)
            elif self._endpoints.is_stale(delivery.webhook_id):
                self._stale.append(delivery)
            else:
                self._put_down([delivery], OFF_DELAY_SECONDS)

    def withdrawn(self, sent: Sent) -> None:
        """Read the webhook again and retry: its request was not built, or was out of date."""
        self._flight.withdraw(sent)
        self._stale.append(sent.item)

    def put_down_ready(self, delay_seconds: float, *, keep: int = 0) -> None:
        """Give back what has not started, but for `keep` rows."""
        self._line_up_batches(self._gathering.take_due(float("inf")))
        if self._flight.ready > keep:
            self._put_down(self._flight.next_ready(self._flight.ready - keep), delay_seconds)
        self._line_up_batches(self._gathering.take_due(float("inf")))
        rest: list[Sendable] = [*self._flight.end_runs(), *self._stale]
        self._stale = []
        self._put_down(rest, delay_seconds)

    def put_down_run(self, webhook_id: UUID) -> None:
        """Give back the rows of an ordered webhook that were to follow one that did not succeed."""
        self._put_down(self._flight.end_run(webhook_id), 0.0)

    def _put_down(self, items: Sequence[Sendable], delay_seconds: float) -> None:
        self._flight.put_down(items)
        self._returns.add((row.id for row in all_rows(items)), delay_seconds)
        for webhook_id in {item.webhook_id for item in items}:
            self.put_down_run(webhook_id)

    def due_at(self, now: float) -> float:
        """When batches are complete, or webhooks to be read anew, by the monotonic clock."""
        return min(self._gathering.due_at, self._read_at())

    def _read_at(self) -> float:
        if self._errand.is_under_way or not self._lease.is_safe:
            return float("inf")
        if not (self._stale or self._flight.count):
            return float("inf")
        return max(0.0 if self._stale else self._refresh_at, self._errand.not_before)

    def order(self, now: float) -> None:
        """Line up complete batches, and read anew the webhooks of what waits for that, for a name or
        for a connection."""
        if now >= self._gathering.due_at:
            self._line_up_batches(self._gathering.take_due(now))
        if now < self._read_at():
            return
        self._refresh_at = now + MAX_AGE_SECONDS / 2
        wanted = {item.webhook_id for item in self._stale}
        wanted.update(sent.item.webhook_id for sent in self._sender.unsent())
        if wanted:
            self._errand.begin(self._submit(wanted))

    def collect(self) -> None:
        """Start what waited for its webhook to be read."""
        ended = self._errand.collect()
        if ended is None or ended.problem is not None or not self._lease.is_safe:
            return
        stale, self._stale = self._stale, []
        for delivery in stale:
            endpoint = self._endpoints.get(delivery.webhook_id)
            if endpoint is not None:
                self._start(delivery, endpoint)
            elif self._endpoints.is_stale(delivery.webhook_id):
                # It came to this list while others were read.
                self._stale.append(delivery)
            else:
                self._put_down([delivery], OFF_DELAY_SECONDS)

    def _start(self, item: Sendable, endpoint: Endpoint) -> None:
        if not isinstance(item, Batch) and goes_in_batch(item, endpoint):
            # Its webhook was not known, or had another setting, when it was lined up.
            item = Batch((item,))
        sent = Sent(item, endpoint, new_id(), time.monotonic())
        self._flight.begin(sent)
        draft = Draft(endpoint.url, partial(self._traced, sent), partial(self._is_current, sent))
        self._sender.start(
            draft,
            timeout_seconds=endpoint.timeout_seconds,
            context=sent,
            group=endpoint.owner_id,
        )

    def _traced(self, sent: Sent) -> Post | None:
        post = self._build(sent)
        if post is not None and self._sends_traceparent:
            _add_traceparent(post, sent)
        return post

    def _build(self, sent: Sent) -> Post | None:
        """Sign with the webhook's present settings: a name look-up may have taken time since the row
        started."""
        endpoint = self._endpoints.get(sent.item.webhook_id)
        if endpoint is None or not self._lease.is_safe:
            return None
        sent.endpoint = endpoint
        delivery = sent.item
        timestamp = int(time.monotonic() + self.clock_offset)
        if isinstance(delivery, Batch):
            events = [(row.event_id, row.payload, row.form) for row in delivery.rows]
            return build_batch(
                endpoint, events, content_type=delivery.content_type, timestamp=timestamp
            )
        build: Callable[..., Post] = build_request
        if delivery.form is not None:
            form, reference, spec, version, place = delivery.form
            build = partial(
                build_formed_request,
                form=form,
                object_reference=reference or "",
                spec=spec,
                stored_version=None if version is None else date.fromisoformat(version),
                object_sequence=place,
            )
        return build(
            endpoint,
            event_id=delivery.event_id,
            event_type=delivery.event_type,
            payload=delivery.payload,
            delivery_id=delivery.id,
            attempt=delivery.attempt_count + 1,
            timestamp=timestamp,
        )

    def _is_current(self, sent: Sent) -> bool:
        known = self._endpoints.get(sent.item.webhook_id)
        return known == sent.endpoint and self._lease.is_safe


def _add_traceparent(post: Post, sent: Sent) -> None:
    """Add the header that names the span of this attempt, if its event is traced."""
    stored = trace_of(rows_of(sent.item))
    if stored is not None:
        own = of_attempt(stored, sent.attempt_id)
        post.headers.lines.append(b"traceparent: " + own.encode())
