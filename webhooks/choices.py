"""Stored choices: delivery statuses, forms, orders, failure kinds, breaker states."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class DeliveryStatus(models.TextChoices):
    """Delivery statuses; the integration guide publishes these values, so they must not change."""

    PENDING = "PENDING", _("Pending")
    SENDING = "SENDING", _("Sending")
    RETRYING = "RETRYING", _("Retrying")
    SUCCESS = "SUCCESS", _("Success")
    FAILED = "FAILED", _("Failed")
    CANCELLED = "CANCELLED", _("Cancelled")


class Form(models.TextChoices):
    """How an event becomes the body of a request; webhooks/wire/forms.py renders it."""

    STANDARD = "standard", _("Standard: id, type, created, data")
    THIN = "thin", _("Thin: id, type, created, object, url")
    FIELDS = "fields", _("Fields: the standard envelope with chosen fields of data")
    RAW = "raw", _("Raw: the data alone")
    CLOUDEVENTS = "cloudevents", _("CloudEvents, structured")
    CLOUDEVENTS_BINARY = (
        "cloudevents-binary",
        _("CloudEvents, binary: standard body and ce-* headers"),
    )


class Order(models.TextChoices):
    """What a webhook's deliveries wait for: nothing, those before, or those before of their object."""

    NONE = "none", _("None: as fast as possible, in any order")
    ALL = "all", _("All: one at a time, in the order of the events")
    OBJECT = "object", _("Object: the events of one object in order, different objects in parallel")


class FailureKind(models.TextChoices):
    """Why an attempt failed, from the view of a receiver's developer."""

    DNS = "dns", _("Host name not resolved")
    CONNECT = "connect", _("Could not connect")
    TLS = "tls", _("TLS failed")
    TIMEOUT = "timeout", _("Timed out")
    RESET = "reset", _("Connection closed early")
    HTTP_STATUS = "http_status", _("Error status")
    TOO_LARGE = "too_large", _("Response too large")
    BLOCKED_ADDRESS = "blocked_address", _("Address not allowed")
    PROTOCOL = "protocol", _("Invalid HTTP response")

    @classmethod
    def label_of(cls, kind: str) -> str:
        """Return a kind's label; the kind itself if a worker of a newer version wrote it."""
        return str(cls(kind).label) if kind in cls.values else kind


class BreakerState(models.TextChoices):
    """A webhook's breaker: closed sends, open waits, half-open sends one probe delivery."""

    CLOSED = "closed", _("Closed")
    OPEN = "open", _("Open")
    HALF_OPEN = "half_open", _("Half-open")
