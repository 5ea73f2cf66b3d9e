"""`/healthz` and `/readyz`: available by address and over plain HTTP, with the true state."""

from collections.abc import Iterator

import pytest
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.test.utils import override_settings


@pytest.fixture
def probe() -> Iterator[Client]:
    """A load balancer, which uses an address without a host name or TLS."""
    with override_settings(ALLOWED_HOSTS=["example.com"], SECURE_SSL_REDIRECT=True):
        yield Client(HTTP_HOST="10.1.2.3:8000", raise_request_exception=False)


def test_process_that_runs_is_healthy(probe: Client) -> None:
    response = probe.get("/healthz")

    assert (response.status_code, response.content) == (200, b"ok\n")


@pytest.mark.django_db
def test_ready_with_postgres_migrations_and_keys(probe: Client) -> None:
    response = probe.get("/readyz")

    assert response.status_code == 200
    assert response.json() == {"ready": True, "problems": {}}


@pytest.mark.django_db
def test_prometheus_reads_the_figures_by_address_without_tls(probe: Client) -> None:
    with override_settings(METRICS_TOKEN="scrape-me"):
        response = probe.get("/metrics", headers={"Authorization": "Bearer scrape-me"})

    assert response.status_code == 200
    assert b"webhooks_due" in response.content


@pytest.mark.django_db
def test_not_ready_without_postgres(probe: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise OperationalError("connection to server at db.internal failed")

    monkeypatch.setattr(connection, "cursor", away)

    response = probe.get("/readyz")

    assert response.status_code == 503
    assert response.json()["problems"] == {"database": "Postgres is unavailable."}


@pytest.mark.django_db
def test_not_ready_before_the_migrations(probe: Client) -> None:
    (last,) = MigrationLoader(connection).graph.leaf_nodes("webhooks")
    MigrationRecorder(connection).record_unapplied(*last)

    response = probe.get("/readyz")

    assert response.status_code == 503
    assert ".".join(last) in response.json()["problems"]["migrations"]


@pytest.mark.django_db
@pytest.mark.parametrize("keys", [[], [b"short"]])
def test_not_ready_without_usable_keys(probe: Client, keys: list[bytes]) -> None:
    with override_settings(WEBHOOKS_ENCRYPTION_KEYS=keys):
        response = probe.get("/readyz")

    assert response.status_code == 503
    assert list(response.json()["problems"]) == ["keys"]


@pytest.mark.django_db
def test_flood_of_probes_reaches_postgres_once(
    probe: Client, django_assert_max_num_queries: object
) -> None:
    probe.get("/readyz")

    with django_assert_max_num_queries(0):  # type: ignore[operator]
        assert {probe.get("/readyz").status_code for _ in range(20)} == {200}
