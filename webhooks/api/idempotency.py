"""`Idempotency-Key` on every POST: the same request twice has one effect and one response.

The transaction of the effect also stores the key and the response, encrypted because it may hold a
secret. So either both exist or neither, and a second request waits for the first. Only an action
that sends a request of its own (`non_atomic_actions`) must not hold a transaction: it stores its key
first, and a crash leaves the key behind for STALE_AFTER.

A response that is not a success frees its key, because nothing has happened. After 24 hours a key
is free again, even if its response still exists (webhooks/repair/retention.py).
"""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.http import HttpResponse
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.response import Response

from webhooks.api.errors import IdempotencyKeyError, KeyInUseError
from webhooks.api.permissions import Asker, is_service
from webhooks.api.renderers import ApiRenderer
from webhooks.doors.owners import owner_of
from webhooks.errors import EncryptionKeyError
from webhooks.ids import new_id
from webhooks.models import IdempotentAnswer
from webhooks.models.encryption import decrypt, encrypt
from webhooks.models.operations import owner_of_answers
from webhooks.models.owners import owner_key, owners_are_users
from webhooks.repair.expiry import ANSWERS_KEPT_FOR

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
STALE_AFTER = timedelta(minutes=2)
"""An action without a response after this time has died."""
ACCEPTABLE_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Handler = Callable[..., Response]


def answer_once(
    key: str, handler: Handler, request: Asker, *args: Any, is_atomic: bool, **kwargs: Any
) -> HttpResponse:
    """Call the handler, or return the answer that it gave to the same request before.

    Raises IdempotencyKeyError for another request with this key, and KeyInUseError while the first
    is under way.
    """
    if not ACCEPTABLE_KEY.fullmatch(key):
        message = f"{HEADER} is 1 to 255 visible ASCII characters; a UUID will do."
        raise ValidationError({HEADER: [ErrorDetail(message, "invalid")]})
    owner_id, request_hash = _owner_of_keys(request), _hash(request)
    with transaction.atomic() if is_atomic else nullcontext():
        answer_id = _take(owner_id, key, request_hash)
        if answer_id is None:
            return _first_answer(owner_id, key, request_hash)
        try:
            response = handler(request, *args, **kwargs)
        except Exception:
            # A transaction rolls the key back with everything else.
            if not is_atomic:
                IdempotentAnswer.objects.filter(id=answer_id).delete()
            raise
        _store(answer_id, response)
    return response


def _owner_of_keys(request: Asker) -> UUID:
    owner = owner_key(owner_of(request))
    if owners_are_users() and owner == request.user.pk:
        owner = None
    return owner_of_answers(request.user.pk, is_service=is_service(request), owner_key=owner)


def _hash(request: Asker) -> bytes:
    target = f"{request.method} {request.get_full_path()}\0".encode()
    return hashlib.sha256(target + request.body).digest()


TAKE_SQL = """
INSERT INTO webhooks_idempotentanswer AS taken (id, owner_id, key, request_hash)
VALUES (%(id)s, %(owner)s, %(key)s, %(hash)s)
    ON CONFLICT (owner_id, key) DO UPDATE
   SET id = excluded.id, request_hash = excluded.request_hash, status_code = NULL,
       answer_encrypted = NULL, created_at = excluded.created_at
 WHERE taken.created_at <= clock_timestamp() - make_interval(secs => %(kept)s)
    OR taken.status_code IS NULL AND taken.created_at <= clock_timestamp() - make_interval(secs => %(stale)s)
"""


def _take(owner_id: UUID, key: str, request_hash: bytes) -> UUID | None:
    """Store the key, or return None if it is taken; waits for a transaction that is storing it."""
    answer_id = new_id()
    parameters: dict[str, Any] = {
        "id": answer_id,
        "owner": owner_id,
        "key": key,
        "hash": request_hash,
        "kept": ANSWERS_KEPT_FOR.total_seconds(),
        "stale": STALE_AFTER.total_seconds(),
    }
    with connection.cursor() as cursor:
        cursor.execute(TAKE_SQL, parameters)
        return answer_id if cursor.rowcount else None


def _first_answer(owner_id: UUID, key: str, request_hash: bytes) -> HttpResponse:
    first = IdempotentAnswer.objects.filter(owner_id=owner_id, key=key).first()
    if first is None or (first.status_code is None and bytes(first.request_hash) == request_hash):
        raise KeyInUseError
    if bytes(first.request_hash) != request_hash:
        raise IdempotencyKeyError(
            "This key was used for another request within 24 hours; choose a new one."
        )
    try:
        stored = json.loads(decrypt(bytes(first.answer_encrypted or b""), first.id))
    except EncryptionKeyError:
        raise IdempotencyKeyError(
            "The first request with this key was done, but its answer cannot be decrypted any "
            "more; look at what it did before you choose a new key."
        ) from None
    response = HttpResponse(
        stored["body"], status=first.status_code, content_type="application/json"
    )
    if stored["location"]:
        response["Location"] = stored["location"]
    response[REPLAYED_HEADER] = "true"
    return response


def _store(answer_id: UUID, response: Response) -> None:
    body = ApiRenderer().render(response.data).decode()
    kept = json.dumps({"body": body, "location": response.get("Location", "")}).encode()
    IdempotentAnswer.objects.filter(id=answer_id).update(
        status_code=response.status_code, answer_encrypted=encrypt(kept, answer_id)
    )
