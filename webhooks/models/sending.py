"""What a webhook's requests wait for, and how many events go in one."""

from collections.abc import Iterable
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from webhooks.choices import Order
from webhooks.wire.forms import BATCHED_FORMS

MOST_EVENTS = 1000


class Sending(models.Model):
    """The order and the batches of a webhook's requests."""

    order = models.CharField(
        max_length=6,
        choices=Order,
        default=Order.NONE,
        db_default=Order.NONE,
        db_column="delivery_order",
        help_text=(
            "none, all (one request at a time, in the order of the events), or object (the same among"
            " the events of one object; different objects in parallel)."
        ),
    )
    # Whether there is an order, for processes of releases that know no other; save() keeps it.
    ordered = models.BooleanField(default=False, editable=False)
    batch_events = models.PositiveSmallIntegerField(
        default=1,
        db_default=1,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_EVENTS)],
        help_text="Most events of one request, 1 to 1,000; 1 for a request per event, not in a list.",
    )
    batch_bytes = models.PositiveIntegerField(
        default=1_000_000,
        db_default=1_000_000,
        validators=[MinValueValidator(1_000), MaxValueValidator(4_000_000)],
        help_text="Most bytes of the events of one request; one event may be larger.",
    )
    batch_milliseconds = models.PositiveSmallIntegerField(
        default=0,
        db_default=0,
        validators=[MaxValueValidator(5_000)],
        help_text="How long an event may wait for others of its request, 0 to 5,000.",
    )

    class Meta:
        abstract = True

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **options: Any) -> None:
        if update_fields is None or "order" in update_fields:
            self.ordered = self.order != Order.NONE
            update_fields = update_fields and [*update_fields, "ordered"]
        super().save(*args, update_fields=update_fields, **options)

    def batch_problem(self, form: str) -> str | None:
        """Return why its events cannot go in batches, in this form and its order."""
        if self.batch_events is None or self.batch_events <= 1:
            return None
        if self.order == Order.ALL:
            return "Events that go one after the other go in no batch: choose another order, or 1."
        if form not in BATCHED_FORMS:
            return f"Only events in the forms {', '.join(BATCHED_FORMS)} go in a batch."
        return None
