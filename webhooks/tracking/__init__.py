"""Turn writes of models into events: the names that other apps may use.

tracked() declares a model's events by its fields. Where that is too little, the model derives from
TrackedModel or adopt() is called for it, and track() says which events its writes cause.
"""

from webhooks.outbox.notes import POSITION
from webhooks.tracking.adoption import adopt
from webhooks.tracking.declaration import tracked
from webhooks.tracking.tracked import TrackedModel, TrackedQuerySet
from webhooks.tracking.writes import (
    Change,
    State,
    Tracking,
    Write,
    announce,
    lock_rows,
    rows_deleting,
    rows_written,
    track,
)

__all__ = [
    "POSITION",
    "Change",
    "State",
    "TrackedModel",
    "TrackedQuerySet",
    "Tracking",
    "Write",
    "adopt",
    "announce",
    "lock_rows",
    "rows_deleting",
    "rows_written",
    "track",
    "tracked",
]
