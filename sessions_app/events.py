"""Event types of sessions, recordings, agents and storage, and the writes that cause them."""

from collections.abc import Iterator

from django.utils import timezone

from sessions_app.models import Agent, Recording, Session, SessionMessage, StorageLevel
from webhooks.catalog import (
    COUNT,
    OPTIONAL_TEXT,
    TEXT,
    TIME_TEXT,
    UUID_TEXT,
    EventType,
    object_schema,
    register,
    wire_text,
    wire_time,
)
from webhooks.tracking import Change, State, Tracking, track

_ID = "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71"
_SESSION_ID = "01935710-7b11-7a90-8c22-5d1e7f3a9b04"
_PROJECT_ID = "01935710-11aa-7c3d-b4e5-6f708192a3b4"
_TIME = "2026-11-23T10:30:00.123Z"

AGENT_STATUS = {"enum": ["ONLINE", "OFFLINE", "BUSY"]}
_SESSION = {"id": UUID_TEXT, "projectId": UUID_TEXT, "projectName": TEXT}
_SESSION_EXAMPLE = {"id": _SESSION_ID, "projectId": _PROJECT_ID, "projectName": "Website"}
_RECORDING = {"id": UUID_TEXT, "sessionId": UUID_TEXT, "projectId": UUID_TEXT}
_RECORDING_EXAMPLE = {"id": _ID, "sessionId": _SESSION_ID, "projectId": _PROJECT_ID}
_STORAGE = {"usedBytes": COUNT, "quotaBytes": COUNT, "percent": {"type": "number", "minimum": 0}}

register(
    EventType(
        name="session.started",
        description="A coding session started.",
        schema=object_schema({**_SESSION, "title": TEXT, "startedAt": TIME_TEXT}),
        example={**_SESSION_EXAMPLE, "title": "Fix the login form", "startedAt": _TIME},
    ),
    EventType(
        name="session.ended",
        description="A coding session ended.",
        schema=object_schema({**_SESSION, "duration": COUNT, "endedAt": TIME_TEXT}),
        example={**_SESSION_EXAMPLE, "duration": 3600, "endedAt": _TIME},
    ),
    EventType(
        name="session.message",
        description="A message was posted in a session.",
        schema=object_schema(
            {
                "id": UUID_TEXT,
                "sessionId": UUID_TEXT,
                "projectId": UUID_TEXT,
                "sender": TEXT,
                "content": TEXT,
                "createdAt": TIME_TEXT,
            }
        ),
        example={
            "id": _ID,
            "sessionId": _SESSION_ID,
            "projectId": _PROJECT_ID,
            "sender": "Ada Lovelace",
            "content": "The tests pass now.",
            "createdAt": _TIME,
        },
    ),
    EventType(
        name="session.paused",
        description="A session was paused.",
        schema=object_schema({**_SESSION, "pausedAt": TIME_TEXT}),
        example={**_SESSION_EXAMPLE, "pausedAt": _TIME},
    ),
    EventType(
        name="session.resumed",
        description="A session was resumed after a pause.",
        schema=object_schema({**_SESSION, "resumedAt": TIME_TEXT}),
        example={**_SESSION_EXAMPLE, "resumedAt": _TIME},
    ),
    EventType(
        name="recording.completed",
        description="A recording is ready to watch.",
        schema=object_schema(
            {
                **_RECORDING,
                "url": TEXT,
                "thumbnailUrl": OPTIONAL_TEXT,
                "duration": COUNT,
                "fileSize": COUNT,
            }
        ),
        example={
            **_RECORDING_EXAMPLE,
            "url": "https://cdn.example.com/r/1.webm",
            "thumbnailUrl": "https://cdn.example.com/r/1.jpg",
            "duration": 1800,
            "fileSize": 52_428_800,
        },
    ),
    EventType(
        name="recording.failed",
        description="A recording could not be processed.",
        schema=object_schema({**_RECORDING, "error": TEXT, "failedAt": TIME_TEXT}),
        example={**_RECORDING_EXAMPLE, "error": "The upload was cut off.", "failedAt": _TIME},
    ),
    EventType(
        name="agent.connected",
        description="A desktop agent came online.",
        schema=object_schema(
            {
                "id": UUID_TEXT,
                "name": TEXT,
                "platform": TEXT,
                "version": TEXT,
                "connectedAt": TIME_TEXT,
            }
        ),
        example={
            "id": _ID,
            "name": "Ada's desktop",
            "platform": "linux",
            "version": "2.4.1",
            "connectedAt": _TIME,
        },
    ),
    EventType(
        name="agent.disconnected",
        description="A desktop agent went offline.",
        schema=object_schema(
            {"id": UUID_TEXT, "name": TEXT, "reason": OPTIONAL_TEXT, "disconnectedAt": TIME_TEXT}
        ),
        example={
            "id": _ID,
            "name": "Ada's desktop",
            "reason": "heartbeat lost",
            "disconnectedAt": _TIME,
        },
    ),
    EventType(
        name="agent.status_changed",
        description="A connected agent became busy or idle.",
        schema=object_schema(
            {
                "id": UUID_TEXT,
                "name": TEXT,
                "previousStatus": AGENT_STATUS,
                "status": AGENT_STATUS,
                "changedAt": TIME_TEXT,
            }
        ),
        example={
            "id": _ID,
            "name": "Ada's desktop",
            "previousStatus": "ONLINE",
            "status": "BUSY",
            "changedAt": _TIME,
        },
    ),
    EventType(
        name="storage.quota_warning",
        description="An owner's recordings reached 80 % of the storage quota.",
        schema=object_schema({**_STORAGE, "occurredAt": TIME_TEXT}),
        example={
            "usedBytes": 8_589_934_592,
            "quotaBytes": 10_737_418_240,
            "percent": 80.0,
            "occurredAt": _TIME,
        },
    ),
    EventType(
        name="storage.quota_exceeded",
        description="An owner's recordings reached 100 % of the storage quota.",
        schema=object_schema({**_STORAGE, "occurredAt": TIME_TEXT}),
        example={
            "usedBytes": 10_737_418_240,
            "quotaBytes": 10_737_418_240,
            "percent": 100.0,
            "occurredAt": _TIME,
        },
    ),
)


def _session_change(session: Session, event_type: str, data: dict[str, object]) -> Change:
    parents = {
        "id": str(session.id),
        "projectId": str(session.project_id),
        "projectName": session.project.name,
    }
    return Change(event_type, session.owner_id, {**parents, **data})


def session_created(session: Session) -> Iterator[Change]:
    data: dict[str, object] = {"title": session.title, "startedAt": wire_time(session.started_at)}
    yield _session_change(session, "session.started", data)


def session_transitions(session: Session, before: State | None) -> Iterator[Change]:
    status = session.status
    was = Session.Status.ACTIVE if before is None else before["status"]
    if status == was:
        return
    now = timezone.now()
    if status == Session.Status.PAUSED:
        yield _session_change(session, "session.paused", {"pausedAt": wire_time(now)})
    elif status == Session.Status.ACTIVE:
        yield _session_change(session, "session.resumed", {"resumedAt": wire_time(now)})
    else:
        # QuerySet.update() may have set the status alone.
        ended_at = session.ended_at or now
        duration = max(0, int((ended_at - session.started_at).total_seconds()))
        data: dict[str, object] = {"duration": duration, "endedAt": wire_time(ended_at)}
        yield _session_change(session, "session.ended", data)


def message_created(message: SessionMessage) -> Iterator[Change]:
    session = message.session
    data: dict[str, object] = {
        "id": str(message.id),
        "sessionId": str(session.id),
        "projectId": str(session.project_id),
        "sender": message.sender,
        "content": wire_text(message.content),
        "createdAt": wire_time(message.created_at),
    }
    yield Change("session.message", session.owner_id, data)


def recording_transitions(recording: Recording, before: State | None) -> Iterator[Change]:
    if before is not None and before["status"] == recording.status:
        return
    session = recording.session
    data: dict[str, object] = {
        "id": str(recording.id),
        "sessionId": str(session.id),
        "projectId": str(session.project_id),
    }
    if recording.status == Recording.Status.READY:
        data |= {
            "url": recording.url,
            "thumbnailUrl": recording.thumbnail_url or None,
            "duration": recording.duration_seconds,
            "fileSize": recording.file_size_bytes,
        }
        yield Change("recording.completed", session.owner_id, data)
    elif recording.status == Recording.Status.FAILED:
        data |= {"error": wire_text(recording.error), "failedAt": wire_time(timezone.now())}
        yield Change("recording.failed", session.owner_id, data)


def agent_transitions(agent: Agent, before: State | None) -> Iterator[Change]:
    status = str(agent.status)
    was = Agent.Status.OFFLINE.value if before is None else str(before["status"])
    if status == was:
        return
    now = wire_time(timezone.now())
    data: dict[str, object] = {"id": str(agent.id), "name": agent.name}
    if was == Agent.Status.OFFLINE:
        event_type = "agent.connected"
        data |= {"platform": agent.platform, "version": agent.version, "connectedAt": now}
    elif status == Agent.Status.OFFLINE:
        event_type = "agent.disconnected"
        data |= {"reason": agent.disconnect_reason or None, "disconnectedAt": now}
    else:
        event_type = "agent.status_changed"
        data |= {"previousStatus": was, "status": status, "changedAt": now}
    yield Change(event_type, agent.owner_id, data)


def storage_crossings(storage: StorageLevel, before: State) -> Iterator[Change]:
    """Yield an event for each threshold between the old and the new level, lowest first."""
    was, now = StorageLevel.Level(before["level"]), StorageLevel.Level(storage.level)
    for level, event_type in (
        (StorageLevel.Level.WARNING, "storage.quota_warning"),
        (StorageLevel.Level.EXCEEDED, "storage.quota_exceeded"),
    ):
        if was.rank < level.rank <= now.rank:
            quota_bytes = storage.owner.storage_quota_bytes
            data: dict[str, object] = {
                "usedBytes": storage.used_bytes,
                "quotaBytes": quota_bytes,
                "percent": round(100 * storage.used_bytes / quota_bytes, 1)
                if quota_bytes
                else 100.0,
                "occurredAt": wire_time(storage.updated_at),
            }
            yield Change(event_type, storage.owner_id, data)


track(
    Session,
    Tracking(
        name="session",
        fields=("project_id", "owner_id", "title", "status", "started_at", "ended_at"),
        related=("project__name",),
        created=session_created,
        transitions=session_transitions,
    ),
)
track(
    SessionMessage,
    Tracking(
        name="message",
        fields=("session_id", "sender", "content", "created_at"),
        related=("session__owner_id", "session__project_id"),
        created=message_created,
    ),
)
track(
    Recording,
    Tracking(
        name="recording",
        fields=(
            "session_id", "status", "url", "thumbnail_url", "duration_seconds",
            "file_size_bytes", "error",
        ),
        related=("session__owner_id", "session__project_id"),
        transitions=recording_transitions,
    ),
)  # fmt: skip
track(
    Agent,
    Tracking(
        name="agent",
        fields=("owner_id", "name", "platform", "version", "status", "disconnect_reason"),
        transitions=agent_transitions,
    ),
)
track(
    StorageLevel,
    Tracking(
        name="storage", fields=("level",), updated=storage_crossings, is_announced_by_hand=True
    ),
)
