"""`/metrics`, for Prometheus: the backlog, the workers, and the attempts of the last minutes.

Each request reads the figures from Postgres, with a time limit and at most once in five seconds per
process; the workers do nothing for it. So every process of the site has the same figures.
"""

import secrets
import time
from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.db import OperationalError, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from webhooks.figures import history, present
from webhooks.postgres import horizon
from webhooks.postgres.sql import limit_statements, query

KEPT_SECONDS = 5.0
WINDOW = timedelta(minutes=5)
TIME_LIMIT_SECONDS = 4

BREAKERS_SQL = """
SELECT breaker_state, active, count(*) FROM webhooks_webhook
 WHERE deleted_at IS NULL GROUP BY 1, 2
"""


def metrics(request: HttpRequest) -> HttpResponse:
    """Return the figures in Prometheus' text format.

    404 unless METRICS_TOKEN is set; 401 without it as a bearer token; 503 if Postgres does not
    respond in time.
    """
    if not settings.METRICS_TOKEN:
        raise Http404
    given = request.headers.get("Authorization", "")
    if not secrets.compare_digest(given.encode(), f"Bearer {settings.METRICS_TOKEN}".encode()):
        return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
    try:
        return HttpResponse(_page(), content_type=CONTENT_TYPE_LATEST)
    except OperationalError:
        return HttpResponse("Postgres does not answer in time.\n", status=503)


_kept: tuple[float, bytes] = (float("-inf"), b"")


def _page() -> bytes:
    global _kept
    if time.monotonic() - _kept[0] >= KEPT_SECONDS:
        registry = CollectorRegistry()
        registry.register(_Figures())
        with transaction.atomic():
            limit_statements(TIME_LIMIT_SECONDS)
            _kept = (time.monotonic(), generate_latest(registry))
    return _kept[1]


class _Figures(Collector):
    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: by default, the registry would collect the figures to learn the names."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from _backlog()
        yield from _workers()
        yield from _webhooks()
        yield from _chores()
        yield from _recent()


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"webhooks_{name}", text, value=float(value or 0))


def _backlog() -> Iterator[GaugeMetricFamily]:
    now = present.backlog()
    yield _gauge("due", "Deliveries that could be sent at once.", now.due)
    yield _gauge(
        "oldest_due_seconds", "How long the oldest of them is due.", now.oldest_due_seconds
    )
    yield _gauge("held", "Due deliveries that their webhook holds back.", now.held)
    yield _gauge("scheduled", "Deliveries whose time has not come.", now.scheduled)
    yield _gauge("retrying", "Deliveries that have failed and will be tried again.", now.retrying)
    yield _gauge("sending", "Deliveries that a worker has claimed.", now.sending)
    yield _gauge("paused", "1 while all sending is paused.", now.is_paused)
    held = horizon.holder()
    text = "How long a transaction has kept ordered webhooks and the feed waiting."
    yield _gauge("horizon_held_seconds", text, held.seconds if held else 0)


def _workers() -> Iterator[GaugeMetricFamily]:
    lives = present.workers()
    alive = [life for life in lives if life.is_alive]
    yield _gauge("workers", "Workers that have sent a heartbeat within ten seconds.", len(alive))
    yield _gauge(
        "workers_silent", "Workers that have not, and did not end.", len(lives) - len(alive)
    )
    in_flight = sum(life.in_flight for life in alive)
    yield _gauge("in_flight", "Requests in flight, as of the last heartbeats.", in_flight)


def _webhooks() -> Iterator[GaugeMetricFamily]:
    states = GaugeMetricFamily(
        "webhooks_registered", "Webhooks by state of their breaker.", labels=["state"]
    )
    counts = {"closed": 0, "open": 0, "half_open": 0, "disabled": 0}
    for state, is_active, count in query(BREAKERS_SQL):
        counts[state if is_active else "disabled"] += count
    for state, count in sorted(counts.items()):
        states.add_metric([state], count)
    yield states


def _chores() -> Iterator[GaugeMetricFamily]:
    failures = GaugeMetricFamily(
        "webhooks_chore_failures", "Failures in a row of a chore of the workers.", labels=["chore"]
    )
    overdue = GaugeMetricFamily(
        "webhooks_chore_overdue_seconds", "How long a chore is due.", labels=["chore"]
    )
    for chore in present.chores():
        failures.add_metric([chore.name], chore.failures)
        overdue.add_metric([chore.name], max(0.0, chore.due_seconds))
    yield failures
    yield overdue


def _recent() -> Iterator[GaugeMetricFamily]:
    selection = history.Selection(since=timezone.now() - WINDOW)
    figures = history.totals(selection)
    outcomes = GaugeMetricFamily(
        "webhooks_recent_deliveries",
        "Deliveries created in the last five minutes, by status.",
        labels=["status"],
    )
    for status in ("pending", "sending", "retrying", "succeeded", "failed", "cancelled"):
        outcomes.add_metric([status], getattr(figures, status))
    yield outcomes
    yield _gauge("recent_attempts", "Attempts of these deliveries.", figures.attempts)
    kinds = GaugeMetricFamily(
        "webhooks_recent_failures", "Failed attempts of these, by kind.", labels=["kind"]
    )
    totals: dict[str, int] = {}
    for failure in history.failures(selection):
        totals[failure.kind] = totals.get(failure.kind, 0) + failure.attempts
    for kind, count in sorted(totals.items()):
        kinds.add_metric([kind], count)
    yield kinds
    for name, text, milliseconds in (
        ("attempt", "Duration of an attempt", (figures.duration_p50_ms, figures.duration_p95_ms)),
        (
            "delivery",
            "Time from an event to its delivery",
            (figures.delivery_p50_ms, figures.delivery_p95_ms),
        ),
    ):
        family = GaugeMetricFamily(
            f"webhooks_recent_{name}_seconds", f"{text}, last five minutes.", labels=["percentile"]
        )
        for percentile, value in zip(("50", "95"), milliseconds, strict=True):
            family.add_metric([percentile], (value or 0) / 1000)
        yield family
