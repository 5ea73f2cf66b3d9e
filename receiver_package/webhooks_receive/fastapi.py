"""A FastAPI route that receives webhooks: `app.post("/webhook")(endpoint(secrets=…, …))`."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from webhooks_receive import MAX_BODY_BYTES, Handle, handle_new, listed, refusal_of
from webhooks_receive.connections import transaction


def endpoint(
    *, secrets: str | Iterable[str], connect: Callable[[], Any], handle: Handle
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Return the route. `handle(event, connection)` runs in a thread, in a transaction of what
    `connect()` returns."""
    known = listed(secrets)

    async def webhook(request: Request) -> Response:
        received = bytearray()
        async for part in request.stream():
            received += part
            if len(received) > MAX_BODY_BYTES:
                return Response(status_code=413)
        body = bytes(received)

        def work() -> int:
            if status := refusal_of(known, request.headers, body):
                return status
            with transaction(connect) as connection:
                return handle_new(request.headers, body, connection, handle)

        return Response(status_code=await run_in_threadpool(work))

    return webhook
