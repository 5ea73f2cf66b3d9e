"""Users and their projects."""

from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models
from django.utils import timezone

from webhooks.ids import new_id
from webhooks.tracking import TrackedModel, TrackedQuerySet

DEFAULT_STORAGE_QUOTA_BYTES = 10 * 1024**3


class TrackedUserManager(UserManager.from_queryset(TrackedQuerySet)):  # type: ignore[misc]
    use_in_migrations = False


class User(TrackedModel, AbstractUser):
    """An owner of projects, agents and webhooks."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    email = models.EmailField("e-mail address", unique=True)
    name = models.CharField(max_length=200, blank=True)
    storage_quota_bytes = models.PositiveBigIntegerField(default=DEFAULT_STORAGE_QUOTA_BYTES)

    objects: ClassVar[Any] = TrackedUserManager()


class Project(TrackedModel):
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner = models.ForeignKey(
        User, on_delete=models.CASCADE, related_name="projects", db_index=False
    )
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    archived = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta(TrackedModel.Meta):
        indexes = [
            # For the list of an owner, newest first.
            models.Index(fields=["owner", "id"], name="project_owner")
        ]

    def __str__(self) -> str:
        return self.name
