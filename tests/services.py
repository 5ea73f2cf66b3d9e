"""Loaded by pytest before the settings: the tests' own Postgres and Valkey, and their environment."""

import os

import pytest

from config.services import BASE_DIR, provide_services

os.environ["DEBUG"] = "1"
os.environ["WEBHOOKS_ALLOWED_NETWORKS"] = "127.0.0.0/8"
# Of several processes each has servers of its own.
process = os.environ.get("PYTEST_XDIST_WORKER", "")
# Someone's own services must not be wiped by a test run; CI may name some on purpose.
for url in ("DATABASE_URL", "REDIS_URL"):
    os.environ.pop(url, None)
    if test_url := os.environ.get(f"TEST_{url}"):
        if process:
            raise pytest.UsageError(f"TEST_{url} is for one process: run pytest without -n.")
        os.environ[url] = test_url
provide_services(BASE_DIR / "var" / f"test-services{process}")
