"""Traces, from the span that stored an event to each attempt and to the receiver."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from projects.models import Project, User
from tests.webhooks.dispatch.test_one_tenant import running_engine, statuses
from tests.webhooks.history import trigger
from tests.webhooks.outbox.test_committer import at_work, build
from tests.webhooks.traces import GIVEN, id_of, of_kind, parent_of, trace_of
from tests.workers import free_port, wait_until
from webhooks import service
from webhooks.choices import Form, Order
from webhooks.dispatch.engine import Engine, run_until_idle
from webhooks.models import Attempt, Delivery, Event, Webhook
from webhooks.outbox.committer import committer
from webhooks.wire.header_rules import header_problem, is_forbidden
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

MakeWebhook = Callable[..., Webhook]


@pytest.fixture
def webhook(make_webhook: MakeWebhook, receiver: HttpReceiver) -> Webhook:
    return make_webhook(url=f"{receiver.url}/secret-path?key=secret", events=["project.*"])


def traceparent_of(span: ReadableSpan) -> str:
    return f"00-{trace_of(span)}-{id_of(span):016x}-01"


def without_random_flag(traceparent: str) -> str:
    """The SDK marks trace ids that it has drawn itself as random."""
    return f"{traceparent[:-2]}{int(traceparent[-2:], 16) & 1:02x}"


def sent_in(receiver: HttpReceiver) -> list[str]:
    return [without_random_flag(one.headers["traceparent"]) for one in receiver.requests]


def test_save_is_one_tree_with_its_attempts_and_receivers(
    user: User, webhook: Webhook, receiver: HttpReceiver, spans: InMemorySpanExporter
) -> None:
    receiver.behaviour = Behaviour(status=500)
    with trace.get_tracer("test").start_as_current_span("request") as request:
        Project.objects.create(owner=user, name="Website")
    run_until_idle()
    receiver.behaviour = Behaviour()
    Delivery.objects.update(next_attempt_at=webhook.created_at)
    run_until_idle()

    (stored,) = of_kind(spans, SpanKind.PRODUCER)
    first, second = of_kind(spans, SpanKind.CLIENT)
    assert parent_of(stored) == request.get_span_context().span_id
    assert {parent_of(first), parent_of(second)} == {id_of(stored)}
    assert {trace_of(one) for one in (stored, first, second)} == {
        f"{request.get_span_context().trace_id:032x}"
    }
    # What a receiver got names exactly its attempt.
    assert sent_in(receiver) == [traceparent_of(first), traceparent_of(second)]
    attempts = Attempt.objects.order_by("number")
    assert [f"{id_of(one):016x}" for one in (first, second)] == [
        one.id.hex[16:] for one in attempts
    ]
    for span, attempt in zip((first, second), attempts, strict=True):
        started_ns = attempt.started_at.timestamp() * 1e9
        assert span.start_time == pytest.approx(started_ns, abs=2000)
        assert span.end_time == pytest.approx(started_ns + attempt.duration_ms * 1e6, abs=2000)
    delivery = Delivery.objects.get()
    known = {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": receiver.port,
        "webhooks.webhook.id": webhook.public_id,
        "webhooks.delivery.id": delivery.public_id,
    }
    assert dict(first.attributes or {}) == known | {
        "webhooks.attempt.number": 1,
        "http.response.status_code": 500,
        "error.type": "http_status",
    }
    assert dict(second.attributes or {}) == known | {
        "webhooks.attempt.number": 2,
        "http.response.status_code": 200,
    }
    assert [one.status.status_code for one in (first, second)] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert (
        dict(stored.attributes or {})["messaging.message.id"]
        == Delivery.objects.get().event.public_id
    )
    for span in spans.get_finished_spans():
        assert "secret" not in span.to_json()
        assert "Website" not in span.to_json()


def test_running_worker_records_a_lone_event(
    user: User, webhook: Webhook, receiver: HttpReceiver, spans: InMemorySpanExporter
) -> None:
    """Through the loop's own connection, whose claim is another statement."""
    with running_engine() as engine:
        wait_until(lambda: engine.is_waiting)
        for _ in range(3):
            trigger(user)
            engine.hint()
            wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists())

    assert len(of_kind(spans, SpanKind.CLIENT)) == 3
    assert sorted(sent_in(receiver)) == sorted(map(traceparent_of, of_kind(spans, SpanKind.CLIENT)))


@pytest.mark.parametrize("order", Order.values)
@pytest.mark.parametrize("form", [Form.STANDARD, Form.CLOUDEVENTS])
def test_every_claim_and_form_carries_the_trace(
    form: str,
    order: str,
    user: User,
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    spans: InMemorySpanExporter,
) -> None:
    make_webhook(url=receiver.url, events=["project.*"], order=order, form=form)
    project = Project.objects.create(owner=user, name="Website")
    project.name = "Shop"
    project.save()

    run_until_idle()

    stored = {id_of(one) for one in of_kind(spans, SpanKind.PRODUCER)}
    attempts = of_kind(spans, SpanKind.CLIENT)
    assert sorted(sent_in(receiver)) == sorted(map(traceparent_of, attempts))
    assert len(stored) == 2
    assert {parent_of(one) for one in attempts} == stored


def test_suspects_carry_their_trace(
    user: User, webhook: Webhook, receiver: HttpReceiver, spans: InMemorySpanExporter
) -> None:
    trigger(user)
    Delivery.objects.update(is_suspect=True, suspect_level=0)

    Engine(suspects=0).run(until_idle=True)

    (attempt,) = of_kind(spans, SpanKind.CLIENT)
    assert sent_in(receiver) == [traceparent_of(attempt)]


def test_redelivery_is_a_further_attempt_of_the_trace(
    user: User, webhook: Webhook, receiver: HttpReceiver, spans: InMemorySpanExporter
) -> None:
    trigger(user)
    run_until_idle()
    service.redeliver_one(Delivery.objects.get())
    run_until_idle()

    first, second = of_kind(spans, SpanKind.CLIENT)
    assert parent_of(first) == parent_of(second)
    assert sent_in(receiver) == [traceparent_of(first), traceparent_of(second)]


def test_failure_to_connect_is_a_span_too(
    user: User, make_webhook: MakeWebhook, spans: InMemorySpanExporter
) -> None:
    make_webhook(url=f"http://127.0.0.1:{free_port()}/", events=["project.*"])
    trigger(user)

    run_until_idle()

    (attempt,) = of_kind(spans, SpanKind.CLIENT)
    assert dict(attempt.attributes or {})["error.type"] == "connect"
    assert attempt.status.status_code == StatusCode.ERROR


def test_batch_is_one_span_with_links(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, spans: InMemorySpanExporter
) -> None:
    make_webhook(url=receiver.url, events=["project.*"], batch_events=3, batch_milliseconds=5000)
    for _ in range(3):
        trigger(user)

    run_until_idle()

    stored = {id_of(one) for one in of_kind(spans, SpanKind.PRODUCER)}
    (request,) = of_kind(spans, SpanKind.CLIENT)
    links = {link.context.span_id for link in request.links}
    assert len(stored) == 3
    assert links | {parent_of(request)} == stored
    assert len(links) == 2
    assert sent_in(receiver) == [traceparent_of(request)]


def test_processor_that_raises_stops_no_delivery(
    user: User,
    webhook: Webhook,
    receiver: HttpReceiver,
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("full")

    trigger(user, 2)
    monkeypatch.setattr(SimpleSpanProcessor, "on_end", fail)

    run_until_idle()

    assert statuses(user) == {"SUCCESS"}
    assert "The spans of some attempts are lost." in caplog.text


def test_what_is_not_sampled_is_passed_on_and_not_exported(
    user: User, webhook: Webhook, receiver: HttpReceiver, spans: InMemorySpanExporter
) -> None:
    unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test")
    with unsampled.start_as_current_span("request") as request:
        trigger(user)

    run_until_idle()

    assert spans.get_finished_spans() == ()
    (given,) = sent_in(receiver)
    assert given.split("-")[1] == f"{request.get_span_context().trace_id:032x}"
    assert given.endswith("-00")


def test_receivers_get_nothing_unless_they_are_to(
    user: User, webhook: Webhook, receiver: HttpReceiver, spans: InMemorySpanExporter, settings: Any
) -> None:
    settings.WEBHOOKS_SEND_TRACEPARENT = False
    trigger(user)

    run_until_idle()

    assert len(of_kind(spans, SpanKind.CLIENT)) == 1
    assert "traceparent" not in receiver.requests[0].headers


def test_worker_without_tracing_ignores_stored_traces(
    user: User, webhook: Webhook, receiver: HttpReceiver, spans: InMemorySpanExporter, settings: Any
) -> None:
    trigger(user)
    settings.WEBHOOKS_TRACING = False

    run_until_idle()

    assert of_kind(spans, SpanKind.CLIENT) == []
    assert "traceparent" not in receiver.requests[0].headers


def test_customers_header_does_not_replace_ours(
    user: User,
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    spans: InMemorySpanExporter,
    settings: Any,
) -> None:
    settings.WEBHOOKS_SEND_TRACEPARENT = False
    own = {"TraceParent": GIVEN, "tracestate": "a=b", "X-Team": "billing"}
    make_webhook(url=receiver.url, events=["project.*"], headers=own)
    settings.WEBHOOKS_SEND_TRACEPARENT = True
    trigger(user)

    run_until_idle()

    names = [name.lower() for name, _ in receiver.requests[0].raw_headers]
    assert names.count("traceparent") == 1
    assert "tracestate" not in names
    assert "x-team" in names
    assert sent_in(receiver) == [traceparent_of(of_kind(spans, SpanKind.CLIENT)[0])]


@pytest.mark.parametrize("name", ["traceparent", "Trace-State", "TRACESTATE", "tracestate"])
def test_names_are_free_while_receivers_get_no_trace(name: str, settings: Any) -> None:
    assert header_problem(name, "a") is None
    settings.WEBHOOKS_SEND_TRACEPARENT = True
    assert is_forbidden(name) is (name != "Trace-State")


def test_failing_save_raises_and_tells_no_values(
    user: User, webhook: Webhook, spans: InMemorySpanExporter
) -> None:
    with pytest.raises(OperationalError), transaction.atomic():
        connection.cursor().execute("SET LOCAL statement_timeout = 1")
        trigger(user, 3000)

    (stored,) = of_kind(spans, SpanKind.PRODUCER)
    assert stored.status.status_code == StatusCode.ERROR
    assert (stored.status.description, stored.events) == (None, ())
    assert dict(stored.attributes or {})["error.type"] == "OperationalError"


def test_requests_that_share_a_statement_keep_their_own_traces(
    user: User, webhook: Webhook, spans: InMemorySpanExporter
) -> None:
    def report(number: int) -> str:
        with trace.get_tracer("test").start_as_current_span("request") as request:
            (event,) = committer.store([build(user.id, f"k{number}")])
            assert isinstance(event, Event)
        stored = Event.objects.get(id=event.id).traceparent
        assert stored is not None
        assert stored.split("-")[1] == f"{request.get_span_context().trace_id:032x}"
        return stored

    with at_work(8) as threads:
        stored = list(threads.map(report, range(64)))

    assert len(set(stored)) == 64
    assert len(of_kind(spans, SpanKind.PRODUCER)) == 64
