"""Whether a webhook's receiver has shown that it wants our requests, when it is asked, and how many
requests it gets until then."""

from urllib.parse import urlsplit

from django.conf import settings
from django.db import models


class EndpointProof(models.Model):
    """The part of Webhook that says so."""

    verified = models.BooleanField(default=False, editable=False)
    # When a worker sends the next challenge (webhooks/repair/proof.py); null when none is wanted.
    proof_due_at = models.DateTimeField(null=True, editable=False)
    proof_failures = models.PositiveSmallIntegerField(default=0, db_default=0, editable=False)
    # Why the last challenge was no proof.
    proof_error = models.CharField(
        max_length=500, blank=True, default="", db_default="", editable=False
    )

    class Meta:
        abstract = True


class UnverifiedHost(models.Model):
    """What webhooks that are not verified have spent together of their host's cap."""

    host = models.CharField(primary_key=True, max_length=255)
    ready_at = models.DateTimeField(
        help_text="When its allowance is full again (webhooks/pace/rate.py)."
    )

    class Meta:
        indexes = [
            # Housekeeping: hosts that get nothing any more.
            models.Index(fields=["ready_at"], name="unverified_host_ready")
        ]

    def __str__(self) -> str:
        return self.host


def host_cap() -> int | None:
    """Return how many requests per second all webhooks together that are not verified may send to
    one host; None for no cap.

    Without proofs nobody is verified, and a cap would hold back every webhook.
    """
    if settings.WEBHOOKS_ENDPOINT_PROOF == "off":
        return None
    return settings.WEBHOOKS_UNVERIFIED_REQUESTS_PER_SECOND or None


def host_of(url: str) -> str:
    """Return the name or address of a stored URL's host, without its port."""
    return urlsplit(url).hostname or ""
