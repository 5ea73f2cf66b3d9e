"""A Django view that receives webhooks: `path("webhook", endpoint(secrets=…, handle=…))`."""

from collections.abc import Callable, Iterable

from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from webhooks_receive import MAX_BODY_BYTES, Handle, handle_new, listed, refusal_of


def endpoint(
    *, secrets: str | Iterable[str], handle: Handle, using: str = "default"
) -> Callable[[HttpRequest], HttpResponse]:
    """Return the view. `handle(event, connection)` runs in a transaction of the database `using`.

    Make the table in a migration: `migrations.RunSQL(webhooks_receive.CREATE_TABLE)`.
    """
    known = listed(secrets)

    @csrf_exempt
    @require_POST
    def view(request: HttpRequest) -> HttpResponse:
        # By read(), because DATA_UPLOAD_MAX_MEMORY_SIZE is less than the largest batch.
        headers, body = request.headers, request.read(MAX_BODY_BYTES + 1)
        status = refusal_of(known, headers, body)
        if status is None:
            with transaction.atomic(using=using):
                status = handle_new(headers, body, connections[using], handle)
        return HttpResponse(status=status)

    return view
