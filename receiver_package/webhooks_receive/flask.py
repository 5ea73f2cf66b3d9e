"""A Flask view that receives webhooks: `app.post("/webhook")(endpoint(secrets=…, …))`."""

from collections.abc import Callable, Iterable
from typing import Any

from flask import request

from webhooks_receive import Handle, receive
from webhooks_receive.connections import transaction


def endpoint(
    *, secrets: str | Iterable[str], connect: Callable[[], Any], handle: Handle
) -> Callable[[], tuple[str, int]]:
    """Return the view. `handle(event, connection)` runs in a transaction of what `connect()` returns."""
    known = [secrets] if isinstance(secrets, str) else list(secrets)

    def webhook() -> tuple[str, int]:
        body = request.get_data()
        headers: Any = request.headers  # no Mapping by its type, but it reads like one
        with transaction(connect) as connection:
            return "", receive(known, headers, body, connection, handle)

    return webhook
