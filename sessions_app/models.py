"""Coding sessions, what they leave behind, and the agents that run them."""

from datetime import datetime
from typing import Any

from django.db import models
from django.utils import timezone

from projects.models import Project, User
from sessions_app.errors import TransitionNotAllowedError
from webhooks.ids import new_id
from webhooks.models.tracking import TrackedModel


def _require(current: str, allowed: tuple[str, ...], action: str) -> None:
    if current not in allowed:
        raise TransitionNotAllowedError(
            f"Cannot {action} from {current}; possible from {' or '.join(allowed)}."
        )


class Session(TrackedModel):
    class Status(models.TextChoices):
        ACTIVE = "ACTIVE", "Active"
        PAUSED = "PAUSED", "Paused"
        COMPLETED = "COMPLETED", "Completed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="sessions")
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sessions")
    title = models.CharField(max_length=200)
    status = models.CharField(max_length=9, choices=Status, default=Status.ACTIVE)
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.title

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.status == self.Status.COMPLETED and self.ended_at is None:
            self.ended_at = timezone.now()
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], "ended_at"}
        super().save(*args, **kwargs)

    @property
    def duration_seconds(self) -> int:
        """Whole seconds from start to end, or to now while it runs."""
        end: datetime = self.ended_at or timezone.now()
        return max(0, int((end - self.started_at).total_seconds()))

    def pause(self) -> None:
        _require(self.status, (self.Status.ACTIVE,), "pause a session")
        self.status = self.Status.PAUSED
        self.save(update_fields=["status"])

    def resume(self) -> None:
        _require(self.status, (self.Status.PAUSED,), "resume a session")
        self.status = self.Status.ACTIVE
        self.save(update_fields=["status"])

    def end(self) -> None:
        _require(self.status, (self.Status.ACTIVE, self.Status.PAUSED), "end a session")
        self.status = self.Status.COMPLETED
        self.ended_at = timezone.now()
        self.save(update_fields=["status", "ended_at"])


class SessionMessage(TrackedModel):
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="messages")
    sender = models.CharField(max_length=200)
    content = models.TextField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"{self.sender}: {self.content[:40]}"


class Recording(TrackedModel):
    class Status(models.TextChoices):
        UPLOADING = "UPLOADING", "Uploading"
        PROCESSING = "PROCESSING", "Processing"
        READY = "READY", "Ready"
        FAILED = "FAILED", "Failed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="recordings")
    title = models.CharField(max_length=200)
    url = models.URLField(max_length=2048, blank=True)
    thumbnail_url = models.URLField(max_length=2048, blank=True)
    duration_seconds = models.PositiveIntegerField(default=0)
    file_size_bytes = models.PositiveBigIntegerField(default=0)
    mime_type = models.CharField(max_length=100, default="video/webm")
    status = models.CharField(max_length=10, choices=Status, default=Status.UPLOADING)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.title

    def complete(
        self, *, url: str, duration_seconds: int, file_size_bytes: int, thumbnail_url: str = ""
    ) -> None:
        _require(
            self.status, (self.Status.UPLOADING, self.Status.PROCESSING), "complete a recording"
        )
        self.status = self.Status.READY
        self.url, self.thumbnail_url = url, thumbnail_url
        self.duration_seconds, self.file_size_bytes = duration_seconds, file_size_bytes
        self.save(
            update_fields=["status", "url", "thumbnail_url", "duration_seconds", "file_size_bytes"]
        )

    def fail(self, error: str) -> None:
        _require(self.status, (self.Status.UPLOADING, self.Status.PROCESSING), "fail a recording")
        self.status = self.Status.FAILED
        self.error = error
        self.save(update_fields=["status", "error"])


class Agent(TrackedModel):
    class Status(models.TextChoices):
        ONLINE = "ONLINE", "Online"
        OFFLINE = "OFFLINE", "Offline"
        BUSY = "BUSY", "Busy"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="agents")
    name = models.CharField(max_length=200)
    platform = models.CharField(max_length=50)
    version = models.CharField(max_length=50)
    status = models.CharField(max_length=7, choices=Status, default=Status.OFFLINE)
    last_seen_at = models.DateTimeField(null=True, blank=True)

    disconnect_reason: str | None = None
    """Told to the receivers by the next save that goes offline; not stored."""

    def __str__(self) -> str:
        return self.name

    def connect(self) -> None:
        _require(self.status, (self.Status.OFFLINE,), "connect an agent")
        self._change_status(self.Status.ONLINE)

    def set_busy(self) -> None:
        _require(self.status, (self.Status.ONLINE,), "make an agent busy")
        self._change_status(self.Status.BUSY)

    def set_idle(self) -> None:
        _require(self.status, (self.Status.BUSY,), "make an agent idle")
        self._change_status(self.Status.ONLINE)

    def disconnect(self, reason: str | None = None) -> None:
        _require(self.status, (self.Status.ONLINE, self.Status.BUSY), "disconnect an agent")
        self.disconnect_reason = reason
        self._change_status(self.Status.OFFLINE)

    def _change_status(self, status: Status) -> None:
        self.status = status
        self.last_seen_at = timezone.now()
        self.save(update_fields=["status", "last_seen_at"])


class StorageLevel(models.Model):
    """The last storage level announced to an owner, so that each crossing is announced once."""

    class Level(models.TextChoices):
        OK = "ok", "Below the warning"
        WARNING = "warning", "Warning sent"
        EXCEEDED = "exceeded", "Quota exceeded"

    owner = models.OneToOneField(User, on_delete=models.CASCADE, primary_key=True, related_name="+")
    level = models.CharField(max_length=8, choices=Level, default=Level.OK)
    used_bytes = models.PositiveBigIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.owner_id}: {self.level}"
