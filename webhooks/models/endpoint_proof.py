"""Whether a webhook's receiver has shown that it wants our requests, and when it is asked."""

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
