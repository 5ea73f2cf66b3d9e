"""Coding sessions, their messages and recordings, and the agents that run them."""

from datetime import datetime
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from projects.models import Project, User
from sessions_app.errors import TransitionNotAllowedError
from webhooks.ids import new_id
from webhooks.tracking import TrackedModel


class StatusModel(TrackedModel):
    """A tracked model with a status and allowed status changes."""

    status = models.CharField(max_length=10)

    class Meta(TrackedModel.Meta):
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save also what the status makes outdated, if the status is saved."""
        names = kwargs.get("update_fields")
        if names is not None:
            # The caller's may be a generator.
            names = kwargs["update_fields"] = {*names}
        # A look at a deferred status would load it, and Django would write it over a newer one.
        if "status" in names if names is not None else "status" not in self.get_deferred_fields():
            for name, value in self.corrections().items():
                setattr(self, name, value)
                if names is not None:
                    names.add(name)
        super().save(*args, **kwargs)

    def corrections(self) -> dict[str, Any]:
        """Return new values of the columns that do not fit the status.

        For writes without save(), triggers empty them when the status ends (migration 0007).
        """
        return {}

    def change_status(
        self, action: str, to: str, *, allowed_from: tuple[str, ...], **fields: Any
    ) -> None:
        """Lock the row, check its present status, and save the new status and other fields.

        Raises TransitionNotAllowedError and saves nothing if the present status is not in
        `allowed_from`, and DoesNotExist if the row was deleted. `action` completes the error's
        sentence "Cannot …".
        """
        with transaction.atomic(savepoint=False):
            row: Any = type(self).objects.select_for_update(no_key=True).filter(pk=self.pk)
            current = row.values_list("status", flat=True).first()
            if is_allowed := current in allowed_from:
                for name, value in {"status": to, **fields}.items():
                    setattr(self, name, value)
                self.save(update_fields=["status", *fields])
        # Raising inside the block would make the caller's transaction roll back.
        if current is None:
            raise type(self).DoesNotExist
        if not is_allowed:
            raise TransitionNotAllowedError(
                f"Cannot {action} from {current}; possible from {' or '.join(allowed_from)}."
            )


class Session(StatusModel):
    class Status(models.TextChoices):
        ACTIVE = "ACTIVE", "Active"
        PAUSED = "PAUSED", "Paused"
        COMPLETED = "COMPLETED", "Completed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="sessions", db_index=False
    )
    owner = models.ForeignKey(
        User, on_delete=models.CASCADE, related_name="sessions", db_index=False
    )
    title = models.CharField(max_length=200)
    status = models.CharField(max_length=9, choices=Status, default=Status.ACTIVE)
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta(TrackedModel.Meta):
        indexes = [
            # For the lists of an owner and of a project, newest first.
            models.Index(fields=["owner", "id"], name="session_owner"),
            models.Index(fields=["project", "id"], name="session_project"),
        ]

    def __str__(self) -> str:
        return self.title

    def corrections(self) -> dict[str, Any]:
        is_over = self.status == self.Status.COMPLETED
        if is_over == (self.ended_at is not None):
            return {}
        return {"ended_at": timezone.now() if is_over else None}

    @property
    def duration_seconds(self) -> int:
        """Whole seconds from start to end; to now if the session has not ended."""
        end: datetime = self.ended_at or timezone.now()
        return max(0, int((end - self.started_at).total_seconds()))

    def pause(self) -> None:
        self.change_status(
            "pause a session", self.Status.PAUSED, allowed_from=(self.Status.ACTIVE,)
        )

    def resume(self) -> None:
        self.change_status(
            "resume a session", self.Status.ACTIVE, allowed_from=(self.Status.PAUSED,)
        )

    def end(self) -> None:
        self.change_status(
            "end a session",
            self.Status.COMPLETED,
            allowed_from=(self.Status.ACTIVE, self.Status.PAUSED),
            ended_at=timezone.now(),
        )


class SessionMessage(TrackedModel):
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, related_name="messages", db_index=False
    )
    sender = models.CharField(max_length=200)
    content = models.TextField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta(TrackedModel.Meta):
        indexes = [
            # For the list of a session, newest first.
            models.Index(fields=["session", "id"], name="message_session")
        ]

    def __str__(self) -> str:
        return f"{self.sender}: {self.content[:40]}"


class Recording(StatusModel):
    class Status(models.TextChoices):
        UPLOADING = "UPLOADING", "Uploading"
        PROCESSING = "PROCESSING", "Processing"
        READY = "READY", "Ready"
        FAILED = "FAILED", "Failed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, related_name="recordings", db_index=False
    )
    title = models.CharField(max_length=200)
    url = models.URLField(max_length=2048, blank=True)
    thumbnail_url = models.URLField(max_length=2048, blank=True)
    duration_seconds = models.PositiveIntegerField(default=0)
    file_size_bytes = models.PositiveBigIntegerField(default=0)
    mime_type = models.CharField(max_length=100, default="video/webm")
    status = models.CharField(max_length=10, choices=Status, default=Status.UPLOADING)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta(TrackedModel.Meta):
        indexes = [
            # For the list of a session, newest first; an owner's list merges those of the sessions.
            models.Index(fields=["session", "id"], name="recording_session")
        ]

    def __str__(self) -> str:
        return self.title

    def corrections(self) -> dict[str, Any]:
        return {} if self.status == self.Status.FAILED else {"error": ""}

    def complete(
        self, *, url: str, duration_seconds: int, file_size_bytes: int, thumbnail_url: str = ""
    ) -> None:
        self.change_status(
            "complete a recording",
            self.Status.READY,
            allowed_from=(self.Status.UPLOADING, self.Status.PROCESSING),
            url=url,
            thumbnail_url=thumbnail_url,
            duration_seconds=duration_seconds,
            file_size_bytes=file_size_bytes,
        )

    def fail(self, error: str) -> None:
        self.change_status(
            "fail a recording",
            self.Status.FAILED,
            allowed_from=(self.Status.UPLOADING, self.Status.PROCESSING),
            error=error,
        )


class Agent(StatusModel):
    class Status(models.TextChoices):
        ONLINE = "ONLINE", "Online"
        OFFLINE = "OFFLINE", "Offline"
        BUSY = "BUSY", "Busy"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="agents", db_index=False)
    name = models.CharField(max_length=200)
    platform = models.CharField(max_length=50)
    version = models.CharField(max_length=50)
    status = models.CharField(max_length=7, choices=Status, default=Status.OFFLINE)
    last_seen_at = models.DateTimeField(null=True, blank=True)

    disconnect_reason = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="Why it last went offline; empty where unknown.",
    )

    class Meta(TrackedModel.Meta):
        indexes = [
            # For the list of an owner, newest first.
            models.Index(fields=["owner", "id"], name="agent_owner")
        ]

    def __str__(self) -> str:
        return self.name

    def corrections(self) -> dict[str, Any]:
        return {} if self.status == self.Status.OFFLINE else {"disconnect_reason": ""}

    def connect(self) -> None:
        self._move("connect an agent", self.Status.ONLINE, self.Status.OFFLINE)

    def set_busy(self) -> None:
        self._move("make an agent busy", self.Status.BUSY, self.Status.ONLINE)

    def set_idle(self) -> None:
        self._move("make an agent idle", self.Status.ONLINE, self.Status.BUSY)

    def disconnect(self, reason: str | None = None) -> None:
        self._move(
            "disconnect an agent",
            self.Status.OFFLINE,
            self.Status.ONLINE,
            self.Status.BUSY,
            disconnect_reason=reason or "",
        )

    def _move(self, action: str, to: str, *allowed_from: str, **fields: Any) -> None:
        now = timezone.now()
        self.change_status(action, to, allowed_from=allowed_from, last_seen_at=now, **fields)


class StorageLevel(models.Model):
    """The last storage level announced to an owner, so that each crossing is announced once."""

    class Level(models.TextChoices):
        OK = "ok", "Below the warning"
        WARNING = "warning", "Warning sent"
        EXCEEDED = "exceeded", "Quota exceeded"

        @property
        def rank(self) -> int:
            return list(type(self)).index(self)

    owner = models.OneToOneField(User, on_delete=models.CASCADE, primary_key=True, related_name="+")
    level = models.CharField(max_length=8, choices=Level, default=Level.OK)
    used_bytes = models.PositiveBigIntegerField(default=0)
    # Database triggers maintain this exact sum of the owner's ready recordings (migration 0005).
    ready_bytes = models.DecimalField(max_digits=40, decimal_places=0, db_default=0, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.owner_id}: {self.level}"
