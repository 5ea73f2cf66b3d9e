"""Health endpoints for load balancers and orchestrators, and the figures for Prometheus.

The middleware handles them before hosts and schemes are checked, because probes and Prometheus use
addresses and plain HTTP.
"""

import time
from collections.abc import Callable, Iterator

from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse

from webhooks.doors.metrics import metrics
from webhooks.errors import EncryptionKeyError
from webhooks.ids import new_id
from webhooks.models.encryption import decrypt, encrypt
from webhooks.repair.doctor_servers import missing_migrations

KEPT_SECONDS = 1.0
"""How long a process caches the response, so that a flood of requests does not reach Postgres."""


def health(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Return a middleware that handles `/healthz`, `/readyz` and `/metrics`; it must come first.

    `/healthz` has status 200 while the process runs. `/readyz` has status 200 if Postgres is available,
    all migrations are applied and the encryption keys work, otherwise 503 and a list of the problems.
    """
    readiness = _Readiness()

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path == "/healthz":
            return HttpResponse("ok\n", content_type="text/plain")
        if request.path == "/readyz":
            return readiness.response()
        if request.path == "/metrics":
            return metrics(request)
        return get_response(request)

    return middleware


class _Readiness:
    def __init__(self) -> None:
        self._checked_at = float("-inf")
        self._problems: dict[str, str] = {}
        self._is_migrated = False
        """Once True, it stays True: new migrations come with new processes."""

    def response(self) -> HttpResponse:
        if time.monotonic() - self._checked_at >= KEPT_SECONDS:
            self._problems = dict(self._check())
            self._checked_at = time.monotonic()
        body = {"ready": not self._problems, "problems": self._problems}
        return JsonResponse(body, status=503 if self._problems else 200)

    def _check(self) -> Iterator[tuple[str, str]]:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            if not self._is_migrated and (missing := missing_migrations()):
                yield "migrations", f"Not applied: {', '.join(missing)}."
            else:
                self._is_migrated = True
        except (DatabaseError, InterfaceError):
            # The error's text may contain hosts and users, so the response leaves it out.
            yield "database", "Postgres is unavailable."
        try:
            row_id = new_id()
            decrypt(encrypt(b"ready", row_id), row_id)
        except (EncryptionKeyError, IndexError, ValueError):
            yield "keys", "WEBHOOKS_ENCRYPTION_KEYS holds no usable key."
