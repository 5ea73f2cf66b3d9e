"""The API's world, for attacks on it, and a count of what was tried."""

from tests.webhooks.api.conftest import (  # noqa: F401 (fixtures)
    _fresh_counters,
    _no_known_tokens,
    client,
    make_client,
    make_token,
    staff,
    world,
)
