"""Requests to the API continue the trace that their `traceparent` names, wherever they are answered."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpResponse
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from projects.models import User
from tests.webhooks.api.test_door import NEW, before_django
from tests.webhooks.traces import GIVEN, id_of, of_kind, parent_of, trace_of
from webhooks.models import Event

EVENTS = "/api/v1/events"
HOSTILE = {
    "empty": "",
    "version only": "00",
    "cut": GIVEN[:-1],
    "longer than version 00": GIVEN + "-1",
    "upper case": GIVEN.upper(),
    "other dashes": GIVEN.replace("-", "_"),
    "twice": f"{GIVEN}, {GIVEN}",
    "a second header": GIVEN + "\r\nX-Evil: 1",
    "impossible version": "ff" + GIVEN[2:],
    "no trace": f"00-{'0' * 32}-00f067aa0ba902b7-01",
    "no span": f"00-{'a' * 32}-{'0' * 16}-01",
    "long": "00-" + "a" * 100_000,
    "NUL": "\0" * 55,
    "digits of another script": "٠" * 55,
}
PATHS = {
    "before Django": {},
    "the door": {"HTTP_IDEMPOTENCY_KEY": "k"},
    "the view": {"HTTP_ACCEPT": "application/*, */*;q=0.5"},
}
"""What makes the request go there."""

Post = Callable[..., HttpResponse]


@pytest.fixture
def post(user: User, make_token: Callable[..., str]) -> Post:
    token = make_token(user)
    client = before_django(token)

    def post(**told: Any) -> Any:
        authorization: dict[str, Any] = {"HTTP_AUTHORIZATION": f"Bearer {token}"}
        answer = client.generic(
            "POST", EVENTS, json.dumps(NEW), "application/json", **authorization, **told
        )
        assert answer.status_code == 201
        # As many as went on from the shortcut.
        is_view = len(client.handler.seen_by_django)  # type: ignore[attr-defined]
        assert is_view == bool(told.keys() - {"HTTP_TRACEPARENT"})
        return answer

    return post


@pytest.mark.parametrize("where", PATHS)
def test_request_continues_its_trace(where: str, post: Post, spans: InMemorySpanExporter) -> None:
    spans.clear()

    post(HTTP_TRACEPARENT=GIVEN, **PATHS[where])

    (stored,) = of_kind(spans, SpanKind.PRODUCER)
    assert (trace_of(stored), parent_of(stored)) == (GIVEN[3:35], int(GIVEN[36:52], 16))
    kept = Event.objects.latest("id").traceparent
    assert kept is not None
    assert kept[:-2] == f"00-{GIVEN[3:35]}-{id_of(stored):016x}-"
    # The next request on this thread has nothing of it.
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize("given", HOSTILE)
def test_other_texts_are_ignored(
    given: str, where: str, post: Post, spans: InMemorySpanExporter
) -> None:
    spans.clear()

    post(HTTP_TRACEPARENT=HOSTILE[given], **PATHS[where])

    (stored,) = of_kind(spans, SpanKind.PRODUCER)
    assert stored.parent is None
    kept = Event.objects.latest("id").traceparent
    assert kept is not None
    assert kept[3:35] == trace_of(stored) != GIVEN[3:35]


def test_unsampled_requests_stay_unsampled(post: Post, spans: InMemorySpanExporter) -> None:
    spans.clear()

    post(HTTP_TRACEPARENT=GIVEN[:-2] + "00")

    assert spans.get_finished_spans() == ()
    kept = Event.objects.latest("id").traceparent
    assert kept is not None
    assert (kept[3:35], kept[-2:]) == (GIVEN[3:35], "00")


def test_span_of_the_deployments_own_instrumentation_goes_first(
    post: Post, spans: InMemorySpanExporter
) -> None:
    spans.clear()
    with trace.get_tracer("test").start_as_current_span("request") as request:
        post(HTTP_TRACEPARENT=GIVEN)

    (stored,) = of_kind(spans, SpanKind.PRODUCER)
    assert parent_of(stored) == request.get_span_context().span_id


def test_without_tracing_nothing_is_kept(post: Post) -> None:
    post(HTTP_TRACEPARENT=GIVEN)

    assert Event.objects.latest("id").traceparent is None
