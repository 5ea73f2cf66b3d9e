"""The closed lists of words that are stored: statuses, failure kinds, breaker states."""

from django.db import models


class DeliveryStatus(models.TextChoices):
    """The life of a delivery; the integration guide shows these words, so they never change."""

    PENDING = "PENDING", "Pending"
    SENDING = "SENDING", "Sending"
    RETRYING = "RETRYING", "Retrying"
    SUCCESS = "SUCCESS", "Success"
    FAILED = "FAILED", "Failed"
    CANCELLED = "CANCELLED", "Cancelled"


class FailureKind(models.TextChoices):
    """Why an attempt failed, as a receiver's developer would sort it."""

    DNS = "dns", "Host name not resolved"
    CONNECT = "connect", "Could not connect"
    TLS = "tls", "TLS failed"
    TIMEOUT = "timeout", "Timed out"
    RESET = "reset", "Connection closed early"
    HTTP_STATUS = "http_status", "Answered with an error status"
    TOO_LARGE = "too_large", "Answer too large"
    BLOCKED_ADDRESS = "blocked_address", "Address not allowed"
    PROTOCOL = "protocol", "Not a valid HTTP answer"


class BreakerState(models.TextChoices):
    """Per-webhook health: closed sends, open waits, half-open probes with one delivery."""

    CLOSED = "closed", "Closed"
    OPEN = "open", "Open"
    HALF_OPEN = "half_open", "Half-open"
