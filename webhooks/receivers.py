"""Signals, one-line adapters to the outbox and the wake-up."""

from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Model
from django.db.models.signals import post_delete, post_save, pre_delete
from django.dispatch import receiver
from django.utils import timezone

from webhooks import outbox, wakeup
from webhooks.models import Delivery, Webhook
from webhooks.models.tracking import TrackedModel


@receiver(post_save, dispatch_uid="webhooks.tracked_saved")
def tracked_saved(sender: type[Model], instance: Model, created: bool, raw: bool, **_: Any) -> None:
    """Emit the events of a save; fixtures (`raw`) emit none."""
    if isinstance(instance, TrackedModel):
        if not raw:
            outbox.store_changes(instance.changes(created=created))
        instance.remember_state()


@receiver(post_delete, dispatch_uid="webhooks.tracked_deleted")
def tracked_deleted(sender: type[Model], instance: Model, **_: Any) -> None:
    if isinstance(instance, TrackedModel):
        outbox.store_changes(instance.changes(deleted=True))


@receiver(pre_delete, sender=settings.AUTH_USER_MODEL, dispatch_uid="webhooks.owner_deleted")
def owner_deleted(sender: type[Model], instance: Model, **_: Any) -> None:
    """Soft-delete the owner's webhooks first: they must not hear of what the cascade deletes."""
    Webhook.objects.filter(owner_id=instance.pk, deleted_at=None).update(
        active=False, deleted_at=timezone.now()
    )


@receiver(post_save, sender=Delivery, dispatch_uid="webhooks.delivery_saved")
@receiver(post_save, sender=Webhook, dispatch_uid="webhooks.webhook_saved")
def something_may_be_due(sender: type[Model], **_: Any) -> None:
    """A delivery saved or a webhook re-activated by hand goes out at once."""
    transaction.on_commit(wakeup.nudge, robust=True)
