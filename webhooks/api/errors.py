"""Errors of the API alone; webhooks/api/problems.py turns them into responses."""

from http import HTTPStatus

from rest_framework import exceptions


class ConflictError(exceptions.APIException):
    """The request is valid, but the object's current state does not allow it."""

    status_code = HTTPStatus.CONFLICT
    default_code = "conflict"


class IdempotencyKeyError(ConflictError):
    default_code = "idempotency_conflict"


class KeyInUseError(ConflictError):
    """Told with Retry-After: nothing is wrong with the request."""

    default_code = "idempotency_key_in_use"
    default_detail = "The first request with this key is still at work; ask again for its answer."


class PreconditionFailedError(exceptions.APIException):
    status_code = HTTPStatus.PRECONDITION_FAILED
    default_code = "precondition_failed"
    default_detail = (
        "The object has been changed since, or has no ETag; fetch it again and repeat the change."
    )


class BodyTooLargeError(exceptions.APIException):
    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"
    default_detail = "The body may take 1,048,576 bytes; send less, or in several requests."


class LengthRequiredError(exceptions.APIException):
    status_code = HTTPStatus.LENGTH_REQUIRED
    default_code = "length_required"
    default_detail = "Send Content-Length and the body in one piece, not in chunks."


class TakesTooLongError(exceptions.APIException):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    default_code = "takes_too_long"
    default_detail = (
        "There are too many rows to answer this in time; choose a shorter time range, a webhook, or "
        "fewer objects."
    )


class ParametersInvalidError(exceptions.ValidationError):
    """Like ValidationError, but about the query string instead of the body."""
