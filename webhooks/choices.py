"""Stored choices: delivery statuses, failure kinds, breaker states."""

from django.db import models


class DeliveryStatus(models.TextChoices):
    """Delivery statuses; the integration guide publishes these values, so they must not change."""

    PENDING = "PENDING", "Pending"
    SENDING = "SENDING", "Sending"
    RETRYING = "RETRYING", "Retrying"
    SUCCESS = "SUCCESS", "Success"
    FAILED = "FAILED", "Failed"
    CANCELLED = "CANCELLED", "Cancelled"


class FailureKind(models.TextChoices):
    """Why an attempt failed, from the view of a receiver's developer."""

    DNS = "dns", "Host name not resolved"
    CONNECT = "connect", "Could not connect"
    TLS = "tls", "TLS failed"
    TIMEOUT = "timeout", "Timed out"
    RESET = "reset", "Connection closed early"
    HTTP_STATUS = "http_status", "Error status"
    TOO_LARGE = "too_large", "Response too large"
    BLOCKED_ADDRESS = "blocked_address", "Address not allowed"
    PROTOCOL = "protocol", "Invalid HTTP response"


class BreakerState(models.TextChoices):
    """A webhook's breaker: closed sends, open waits, half-open sends one probe delivery."""

    CLOSED = "closed", "Closed"
    OPEN = "open", "Open"
    HALF_OPEN = "half_open", "Half-open"
