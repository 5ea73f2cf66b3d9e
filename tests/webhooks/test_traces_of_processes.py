"""Tracing in processes of the product: not loaded when off; real exports, and collectors that hang."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from config.services import BASE_DIR
from projects.models import User
from tests.webhooks.history import trigger
from tests.webhooks.traces import id_of, of_kind
from tests.workers import (
    black_hole,
    environment,
    free_port,
    running_worker,
    wait_for_heartbeats,
    wait_until,
)
from webhooks.models import Delivery, Event, Webhook
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

SITE = """
import sys
from django.test import Client
from config.wsgi import application
from projects.models import User
from webhooks import service
from webhooks.models import ApiToken
user = User.objects.get()
service.trigger_event("project.deleted", user, DATA)
Client(HTTP_TRACEPARENT=GIVEN).get("/api/v1/webhooks")
"""
WORKER = """
import sys
from django.core.management import call_command
call_command("webhooks_worker", burst=True)
"""
LOADED = """
print(sum(name.startswith("opentelemetry.") for name in sys.modules))
"""
CONSTANTS = """
DATA = {"id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71", "name": "Website", "deletedAt": "2026-11-23T10:30:00.123Z"}
GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""


# As where the packages are not installed. Where they are, the Redis client loads them.
WITHOUT_PACKAGES = """
import sys
sys.modules["opentelemetry"] = None
"""
SET_UP = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
import django
django.setup()
"""


def ran(program: str, **changes: str) -> str:
    """Run a program and return what it prints last, or its last line of errors."""
    whole = CONSTANTS + program + LOADED
    ended = subprocess.run(
        [sys.executable, "-c", whole],
        env=environment(**changes),
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return (ended.stderr if ended.returncode else ended.stdout).splitlines()[-1]


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    return make_webhook(url=receiver.url, events=["project.*"])


@pytest.mark.parametrize("tracing", ["0", "1"])
def test_only_tracing_loads_the_packages(
    tracing: str, user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    told = {
        "WEBHOOKS_TRACING": tracing,
        "WEBHOOKS_WAKEUP": "listen",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }

    before = "" if tracing == "1" else WITHOUT_PACKAGES
    loaded = [int(ran(before + SET_UP + program, **told)) for program in (SITE, WORKER)]

    assert Delivery.objects.get().status == "SUCCESS"
    assert (Event.objects.latest("id").traceparent is None) == (tracing == "0")
    assert [count > 0 for count in loaded] == [tracing == "1"] * 2


def test_tracing_without_its_packages_does_not_start(user: User) -> None:
    assert ran(WITHOUT_PACKAGES + SET_UP, WEBHOOKS_TRACING="1") == (
        "django.core.exceptions.ImproperlyConfigured: WEBHOOKS_TRACING is on, and the module "
        "opentelemetry is missing: pip install remotedevai-webhooks[tracing]."
    )


def test_refused_variable_stops_no_event(user: User, webhook: Webhook) -> None:
    # Less than a batch of the exporter's.
    ran(SET_UP + SITE, WEBHOOKS_TRACING="1", OTEL_BSP_MAX_QUEUE_SIZE="1")

    assert Delivery.objects.count() == 1
    assert Event.objects.latest("id").traceparent is None


class Collector(ThreadingHTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: dict[str, tuple[str, Any]] = {}
        """The service and the span, by the span's id as hex."""


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            told = {one.key: one.value.string_value for one in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self.server.spans[span.span_id.hex()] = told["service.name"], span
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_site_and_worker_export_one_tree(
    user: User, webhook: Webhook, receiver: HttpReceiver, collector: Collector
) -> None:
    told = {
        "WEBHOOKS_TRACING": "1",
        "WEBHOOKS_SEND_TRACEPARENT": "1",
        "WEBHOOKS_WAKEUP": "listen",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
    }

    ran(SET_UP + SITE, OTEL_SERVICE_NAME="site", **told)
    # What is left is exported when the processes end.
    ran(SET_UP + WORKER, OTEL_SERVICE_NAME="worker", **told)

    (sent,) = [one.headers["traceparent"] for one in receiver.requests]
    service, attempt = collector.spans[sent.split("-")[2]]
    assert (service, attempt.name, attempt.trace_id.hex()) == ("worker", "POST", sent[3:35])
    service, stored = collector.spans[attempt.parent_span_id.hex()]
    assert (service, stored.name) == ("site", "create project.deleted")
    assert stored.trace_id == attempt.trace_id
    assert len(collector.spans) == 2


def test_suspects_spans_are_exported_before_their_process_leaves(
    user: User,
    webhook: Webhook,
    receiver: HttpReceiver,
    collector: Collector,
    spans: InMemorySpanExporter,
) -> None:
    trigger(user, 3)
    Delivery.objects.update(is_suspect=True, suspect_level=0)
    collecting = f"http://127.0.0.1:{collector.server_port}"
    with running_worker(WEBHOOKS_TRACING="1", OTEL_EXPORTER_OTLP_ENDPOINT=collecting):
        wait_until(lambda: len(collector.spans) == 3)

    (stored,) = of_kind(spans, SpanKind.PRODUCER)
    assert {span.parent_span_id.hex() for _, span in collector.spans.values()} == {
        f"{id_of(stored):016x}"
    }


@contextmanager
def refusing() -> Iterator[str]:
    """The address of nobody."""
    yield f"127.0.0.1:{free_port()}"


COLLECTORS = {"hangs": black_hole, "refuses": refusing}
MOST_SECONDS = 5.0
"""Less than one time-out of the exporter, which is 10 s."""


@pytest.mark.parametrize("kind", COLLECTORS)
def test_dead_collector_delays_neither_deliveries_nor_the_end(
    kind: str, user: User, webhook: Webhook, receiver: HttpReceiver, spans: InMemorySpanExporter
) -> None:
    with ExitStack() as stack:
        address = stack.enter_context(COLLECTORS[kind]())
        worker = stack.enter_context(
            running_worker(
                WEBHOOKS_TRACING="1",
                OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{address}",
                # Soon full.
                OTEL_BSP_MAX_QUEUE_SIZE="64",
                OTEL_BSP_MAX_EXPORT_BATCH_SIZE="32",
                OTEL_BSP_SCHEDULE_DELAY="50",
            )
        )
        wait_for_heartbeats(1)
        for count in (1, 200, 1):
            began = time.monotonic()
            trigger(user, count)
            wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists())
            assert time.monotonic() - began < MOST_SECONDS
        worker.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert worker.wait(30) == 0
        assert time.monotonic() - began < MOST_SECONDS

    assert len(receiver.requests) == 202
