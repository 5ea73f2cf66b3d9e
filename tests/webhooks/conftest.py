"""What keeps tests of this app on this machine, and what they send with."""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pycurl
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.webhooks import traces
from tests.webhooks.sending import Canary
from webhooks.outbox import valkey
from webhooks.repair import doctor_servers, doctor_valkey
from webhooks.wire.exchange import Exchange


@pytest.fixture(autouse=True)
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that libcurl was let through to; any but loopback is stopped there."""
    addresses: list[str] = []
    open_socket = Exchange._open_socket

    def guarded(self: Exchange, purpose: int, address: Any) -> Any:
        opened = open_socket(self, purpose, address)
        if opened == pycurl.SOCKET_BAD:
            return opened
        addresses.append(address[3][0])
        if ip_address(address[3][0]).is_loopback:
            return opened
        self._opened.pop().close()
        return pycurl.SOCKET_BAD

    monkeypatch.setattr(Exchange, "_open_socket", guarded)
    return addresses


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as canary:
        yield canary


@pytest.fixture
def spans(settings: Any) -> InMemorySpanExporter:
    """Tracing is on, and receivers get `traceparent`; what is exported is there."""
    settings.WEBHOOKS_TRACING = settings.WEBHOOKS_SEND_TRACEPARENT = True
    exporter = traces.exporter()
    exporter.clear()
    return exporter


@pytest.fixture
def unhurried_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that answer slowly on a busy machine are no finding."""
    monkeypatch.setattr(doctor_servers, "SLOW_DATABASE_MS", 10_000)
    monkeypatch.setattr(doctor_valkey, "SLOW_VALKEY_MS", 10_000)


@pytest.fixture
def evicting_valkey(empty_valkey: None) -> Iterator[None]:
    client = valkey.connect(2)
    client.config_set("maxmemory-policy", "allkeys-lru")
    yield
    client.config_set("maxmemory-policy", "noeviction")
