"""Signal handlers of one or two lines: writes become events, accounts come and go, workers wake."""

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.db.models import Model, QuerySet
from django.db.models.signals import post_save, pre_delete
from django.dispatch import receiver

from webhooks.models import Delivery, Webhook
from webhooks.models.owners import ACTIVE, has_active_column, owner_model
from webhooks.outbox import wakeup
from webhooks.registry import retirement, switch
from webhooks.tracking import coalescing
from webhooks.tracking.tracked import TrackedModel
from webhooks.tracking.writes import Write, rows_deleting, rows_written


@receiver(rows_written, dispatch_uid="webhooks.rows_written")
def tracked_rows_written(
    sender: type[Model],
    writes: Sequence[Write],
    position: str | None,
    is_final_write: bool,
    **_: Any,
) -> None:
    if sender is owner_model() and (revived := _revived(writes)):
        switch.resume_webhooks_of(revived)
    coalescing.store_writes(sender, writes, position=position, is_final_write=is_final_write)


def _revived(writes: Sequence[Write]) -> list[Any]:
    """Return the keys of owners that were inactive and are active, where that is tracked."""
    if not has_active_column():
        return []
    return [
        write.row.pk
        for write in writes
        if write.before and write.before.get(ACTIVE) is False and getattr(write.row, ACTIVE)
    ]


@receiver(rows_deleting, dispatch_uid="webhooks.rows_deleting")
def tracked_rows_deleting(sender: type[Model], queryset: QuerySet[Any], **_: Any) -> None:
    if sender is owner_model():
        retirement.retire_webhooks_of(queryset)
    coalescing.withdraw_created(queryset)


def untracked_owner_deleting(sender: type[Model], instance: Any, **_: Any) -> None:
    retirement.retire_webhooks_of(owner_model()._base_manager.filter(pk=instance.pk))


def watch_deleted_owners() -> None:
    """Delete the webhooks of deleted owners also where the owner model is not tracked."""
    owners = owner_model()
    if issubclass(owners, TrackedModel):
        return
    # With the senders: a receiver of all senders would make every delete of the project slower.
    for model in apps.get_models():
        if model._meta.concrete_model is owners:
            pre_delete.connect(
                untracked_owner_deleting, sender=model, dispatch_uid="webhooks.owner_deleting"
            )


@receiver(post_save, sender=Delivery, dispatch_uid="webhooks.delivery_saved")
@receiver(post_save, sender=Webhook, dispatch_uid="webhooks.webhook_saved")
def wake_workers(sender: type[Model], **_: Any) -> None:
    """Wake the workers: a saved delivery or an enabled webhook may have made deliveries due."""
    wakeup.nudge_on_commit()
