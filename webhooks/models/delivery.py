"""One event owed to one webhook, and every HTTP attempt."""

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from webhooks.choices import DeliveryStatus, FailureKind, Form
from webhooks.ids import ATTEMPT_PREFIX, DELIVERY_PREFIX, new_id
from webhooks.models.event import Event
from webhooks.models.fields import CurrentEpoch
from webhooks.models.operations import Pause, Redelivery
from webhooks.models.owner_keys import owner_key_field
from webhooks.models.stored_form import spec_of
from webhooks.models.webhook import Webhook
from webhooks.wire.forms import read_spec, render
from webhooks.wire.header_lines import answer_pairs, header_pairs

COUNTED_AT_MOST = 10_000
"""The maximum count of an interactive query; one more means "more than that"."""

WAITING = (DeliveryStatus.PENDING, DeliveryStatus.RETRYING)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def for_owner(self, owner_id: uuid.UUID) -> "DeliveryQuerySet":
        return self.filter(owner_id=owner_id)

    def waiting(self) -> "DeliveryQuerySet":
        """Pending or retrying: neither finished nor in flight."""
        return self.filter(status__in=WAITING)

    def with_waits(self) -> "DeliveryQuerySet":
        """Add what figures.display.wait_of() reads: webhooks, their owners, `is_paused`."""
        return self.select_related("webhook__owner").annotate(
            is_paused=models.Exists(Pause.objects.all())
        )

    def cancel(self, reason: str) -> int:
        """Cancel these deliveries and return their number."""
        return self.update(
            status=DeliveryStatus.CANCELLED, finished_at=Now(), next_attempt_at=None, error=reason
        )


class Delivery(models.Model):
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Without database constraints: events and deliveries are only ever inserted in one statement,
    # joined with their webhooks, and the checks would cost more than the insert. The check of the
    # webhook would also lock its row for every event. Likewise Attempt.delivery.
    event = models.ForeignKey(
        Event,
        on_delete=models.CASCADE,
        related_name="deliveries",
        db_index=False,
        db_constraint=False,
    )
    webhook = models.ForeignKey(
        Webhook,
        on_delete=models.CASCADE,
        related_name="deliveries",
        db_index=False,
        db_constraint=False,
    )
    # The webhook's owner and the event's type, repeated so that lists and claims need no join.
    owner_id = owner_key_field(help_text="NO_OWNER for platform webhooks.")
    event_type = models.CharField(max_length=100)
    status = models.CharField(max_length=9, choices=DeliveryStatus, default=DeliveryStatus.PENDING)
    attempt_count = models.IntegerField(default=0)
    round = models.SmallIntegerField(default=1)
    attempts_before_round = models.IntegerField(
        default=0,
        help_text="Attempts before this round, which do not count against its retry budget.",
    )
    next_attempt_at = models.DateTimeField(null=True, db_default=Now())
    claimed_by = models.UUIDField(null=True, default=None, help_text="The worker that holds it.")
    is_suspect = models.BooleanField(
        default=False, help_text="In flight when its worker died; the next attempt is sent apart."
    )
    # Without the check of a positive field: to add it would read the whole table under a lock.
    suspect_level = models.SmallIntegerField(
        db_default=0, help_text="The higher, the fewer other suspects are sent beside it."
    )
    crash_count = models.SmallIntegerField(
        default=0, help_text="Crashes of workers that were sending only this delivery."
    )
    response_code = models.SmallIntegerField(null=True)
    failure_kind = models.CharField(max_length=20, choices=FailureKind, blank=True)
    error = models.CharField(max_length=500, blank=True)
    epoch = models.BigIntegerField(
        null=True,
        db_default=CurrentEpoch(),
        help_text="The epoch of the transaction in order_key; meaningless without an order key.",
    )
    order_key = models.BigIntegerField(
        null=True,
        default=None,
        help_text=(
            "The transaction that stored it, if the webhook is ordered; null if exempt."
            " Within one transaction the ids give the order."
        ),
    )
    # Only of webhooks that keep order per object, of events with an object. A row without an order key
    # keeps them for its headers.
    object_key = models.BigIntegerField(
        null=True, default=None, help_text="The hash of the event's object reference."
    )
    object_sequence = models.BigIntegerField(
        null=True,
        default=None,
        help_text="The sequence of its event: within an epoch, the place among those of its object.",
    )
    # Never changed, so that every attempt and redelivery sends the same bytes. Null is the standard
    # form: most rows need no room for it, and the claim reads nothing more.
    # One of Form, or the key of a StoredForm.
    form = models.CharField(max_length=20, null=True, default=None, editable=False)  # noqa: DJ001
    # Only of webhooks that debounce: most rows need no room for it.
    debounce_key = models.CharField(  # noqa: DJ001 (null = supersedes nothing)
        max_length=100,
        null=True,
        default=None,
        editable=False,
        help_text="The object whose waiting updates a later one supersedes (webhooks_supersede()).",
    )
    redelivery = models.ForeignKey(
        Redelivery,
        on_delete=models.SET_NULL,
        null=True,
        default=None,
        related_name="deliveries",
        db_index=False,
        db_constraint=False,
    )
    created_at = models.DateTimeField(db_default=Now())
    delivered_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "deliveries"
        permissions = [("redeliver_delivery", "Can send deliveries again, and cancel them")]
        constraints = [
            models.UniqueConstraint(fields=["event", "webhook"], name="delivery_once_per_webhook")
        ]
        indexes = [
            # The claim: recently due rows of any webhook. Rows in flight stay in it, and
            # no index names the status: a claim then changes no indexed column, and Postgres need
            # not touch the indexes (a HOT update).
            models.Index(
                fields=["next_attempt_at"],
                name="delivery_recent",
                condition=Q(finished_at=None, is_suspect=False),
            ),
            # The claim: due rows of a webhook, and the survey of all that wait for anything. Without
            # the rows that go in order: a large backlog of them would stand before the others.
            models.Index(
                fields=["owner_id", "webhook", "next_attempt_at"],
                name="delivery_due_unordered",
                condition=Q(finished_at=None, order_key=None),
            ),
            # The claim of ordered webhooks: the first that is not finished.
            models.Index(
                fields=["webhook", "epoch", "order_key", "id"],
                name="delivery_epoch_order",
                condition=Q(finished_at=None, order_key__isnull=False),
            ),
            # The order per object: its first that is not finished.
            models.Index(
                fields=["webhook", "object_key", "epoch", "object_sequence"],
                name="delivery_of_object",
                condition=Q(finished_at=None, order_key__isnull=False, object_key__isnull=False),
            ),
            # The claim of webhooks that keep order per object: due rows.
            models.Index(
                fields=["webhook", "next_attempt_at"],
                name="delivery_due_by_object",
                condition=Q(finished_at=None, order_key__isnull=False, object_key__isnull=False),
            ),
            # Suspects, which are sent apart.
            models.Index(
                fields=["next_attempt_at"],
                name="delivery_suspect",
                condition=Q(finished_at=None, is_suspect=True),
            ),
            # webhooks_supersede(): what waits of one object.
            models.Index(
                fields=["webhook", "debounce_key"],
                name="delivery_debounced",
                condition=Q(finished_at=None, debounce_key__isnull=False),
            ),
            # The progress of a redelivery.
            models.Index(
                fields=["redelivery"],
                name="delivery_of_redelivery",
                condition=Q(redelivery__isnull=False),
            ),
            # Lists, newest first: of a webhook and of an owner.
            models.Index(fields=["webhook", "id"], name="delivery_webhook"),
            models.Index(fields=["owner_id", "id"], name="delivery_owner"),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.public_id}"

    @property
    def public_id(self) -> str:
        return DELIVERY_PREFIX + self.id.hex

    @property
    def form_name(self) -> str:
        """One of Form."""
        spec = self._spec
        return read_spec(spec).form if spec else self.form or Form.STANDARD

    @property
    def data_fields(self) -> list[str] | None:
        """The paths of its form `fields`, None for other forms."""
        spec = self._spec
        return read_spec(spec).fields if spec else None

    @property
    def version(self) -> str | None:
        """The date that its webhook pinned, where the event's data is of a newer version."""
        spec = self._spec
        return read_spec(spec).version if spec else None

    @property
    def _spec(self) -> str | None:
        """The parameters of its form, None where it has none."""
        return None if self.form is None or self.form in Form.values else spec_of(self.form)

    def rendered(self, event: Event) -> bytes:
        """Return the body that is sent; empty once the payload was erased."""
        payload = bytes(event.payload)
        return render(self.form, payload, event.object_reference, self._spec, event.version).body


PHASES = ("dns", "connect", "tls", "send", "wait", "receive")
"""What one request consists of, in its order (webhooks/wire/phases.py)."""


class Attempt(models.Model):
    """One HTTP attempt. Append-only.

    The table has a partition for each day of its deliveries' ids (webhooks/repair/partitions.py), so a
    query names the deliveries wherever it can: one by the attempt's own id reads an index of each day.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    delivery = models.ForeignKey(
        Delivery,
        on_delete=models.CASCADE,
        related_name="attempts",
        db_index=False,
        db_constraint=False,
    )
    number = models.IntegerField()
    started_at = models.DateTimeField()
    duration_ms = models.IntegerField()
    phases_us = ArrayField(
        models.PositiveIntegerField(),
        null=True,
        help_text="Microseconds of each of PHASES; none of attempts before they were recorded.",
    )
    url = models.CharField(max_length=2048)
    body_sha256 = models.BinaryField(
        max_length=32,
        null=True,
        help_text="Of the body sent; none without a request, and of attempts before it was recorded.",
    )
    # Header lines are stored as sent and received: parsing them would cost more than sending.
    request_head = models.TextField(help_text="The header lines sent, without secrets.")
    response_code = models.SmallIntegerField(null=True)
    response_head = models.BinaryField(
        null=True, help_text="Status line and headers of the response, as received."
    )
    response_body = models.BinaryField(null=True)
    is_truncated = models.BooleanField(default=False)
    failure_kind = models.CharField(max_length=20, choices=FailureKind, blank=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        constraints = [
            # Also the index behind a delivery's list of attempts.
            models.UniqueConstraint(fields=["delivery", "number"], name="attempt_number")
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.delivery_id}"

    @property
    def public_id(self) -> str:
        return ATTEMPT_PREFIX + self.id.hex

    @property
    def phases(self) -> dict[str, float] | None:
        """Milliseconds of each phase, by its name; None where they were not recorded."""
        if self.phases_us is None:
            return None
        return {name: us / 1000 for name, us in zip(PHASES, self.phases_us, strict=True)}

    @property
    def body_digest(self) -> str | None:
        """The SHA-256 of the body sent, as hex."""
        return None if self.body_sha256 is None else bytes(self.body_sha256).hex()

    @property
    def request_headers(self) -> list[tuple[str, str]]:
        return header_pairs(self.request_head.encode().splitlines())

    @property
    def response_headers(self) -> list[tuple[str, str]]:
        return answer_pairs(bytes(self.response_head or b""))
