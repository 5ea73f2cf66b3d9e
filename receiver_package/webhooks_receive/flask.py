"""A Flask view that receives webhooks: `app.post("/webhook")(endpoint(secrets=…, …))`."""

from collections.abc import Callable, Iterable
from typing import Any

from flask import request

from webhooks_receive import MAX_BODY_BYTES, Handle, handle_new, listed, refusal_of
from webhooks_receive.connections import transaction


def endpoint(
    *, secrets: str | Iterable[str], connect: Callable[[], Any], handle: Handle
) -> Callable[[], tuple[str, int]]:
    """Return the view. `handle(event, connection)` runs in a transaction of what `connect()` returns."""
    known = listed(secrets)

    def webhook() -> tuple[str, int]:
        length = request.content_length
        if length is not None and length > MAX_BODY_BYTES:
            return "", 413
        # Without a length it may have no end.
        most = MAX_BODY_BYTES + 1
        body = request.stream.read(most) if length is None else request.get_data()
        headers: Any = request.headers  # no Mapping by its type, but it reads like one
        if status := refusal_of(known, headers, body):
            return "", status
        with transaction(connect) as connection:
            return "", handle_new(headers, body, connection, handle)

    return webhook
