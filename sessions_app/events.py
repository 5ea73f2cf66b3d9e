"""Event types of sessions, recordings, agents and storage, and which writes cause them."""

from collections.abc import Iterator

from django.utils import timezone

from sessions_app.models import Agent, Recording, Session, SessionMessage
from webhooks.catalog import (
    COUNT,
    OPTIONAL_TEXT,
    TEXT,
    TIME_TEXT,
    UUID_TEXT,
    EventType,
    object_schema,
    register,
    wire_time,
)
from webhooks.models.tracking import Change, State, describe_changes_of

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
        description="A session went on after a pause.",
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


def session_changes(session: Session, before: State | None, deleted: bool) -> Iterator[Change]:
    if deleted:
        return
    status, was = Session.Status(session.status), (before or {}).get("status")
    if before is not None and was in (None, status):
        return

    def change(event_type: str, data: dict[str, object]) -> Change:
        belongs = {
            "id": str(session.id),
            "projectId": str(session.project_id),
            "projectName": session.project.name,
        }
        return Change(event_type, session.owner_id, {**belongs, **data}, f"session:{session.id}")

    now = wire_time(timezone.now())
    if before is None:
        yield change(
            "session.started",
            {"title": session.title, "startedAt": wire_time(session.started_at)},
        )
    if status == Session.Status.PAUSED:
        yield change("session.paused", {"pausedAt": now})
    elif status == Session.Status.COMPLETED:
        ended_at = wire_time(session.ended_at or timezone.now())
        yield change("session.ended", {"duration": session.duration_seconds, "endedAt": ended_at})
    elif before is not None:
        yield change("session.resumed", {"resumedAt": now})


def message_changes(
    message: SessionMessage, before: State | None, deleted: bool
) -> Iterator[Change]:
    if deleted or before is not None:
        return
    session = message.session
    data = {
        "id": str(message.id),
        "sessionId": str(session.id),
        "projectId": str(session.project_id),
        "sender": message.sender,
        "content": message.content,
        "createdAt": wire_time(message.created_at),
    }
    yield Change("session.message", session.owner_id, data, f"message:{message.id}")


def recording_changes(
    recording: Recording, before: State | None, deleted: bool
) -> Iterator[Change]:
    status, was = recording.status, (before or {}).get("status")
    if deleted or (before is not None and was in (None, status)):
        return
    data: dict[str, object]
    if status == Recording.Status.READY:
        event_type = "recording.completed"
        data = {
            "url": recording.url,
            "thumbnailUrl": recording.thumbnail_url or None,
            "duration": recording.duration_seconds,
            "fileSize": recording.file_size_bytes,
        }
    elif status == Recording.Status.FAILED:
        event_type = "recording.failed"
        data = {"error": recording.error, "failedAt": wire_time(timezone.now())}
    else:
        return
    session = recording.session
    belongs = {
        "id": str(recording.id),
        "sessionId": str(session.id),
        "projectId": str(session.project_id),
    }
    yield Change(event_type, session.owner_id, {**belongs, **data}, f"recording:{recording.id}")


def agent_changes(agent: Agent, before: State | None, deleted: bool) -> Iterator[Change]:
    status = str(agent.status)
    was = Agent.Status.OFFLINE if before is None else before.get("status", status)
    if deleted or status == was:
        return
    now = wire_time(timezone.now())
    data: dict[str, object] = {"id": str(agent.id), "name": agent.name}
    if was == Agent.Status.OFFLINE:
        event_type = "agent.connected"
        data |= {"platform": agent.platform, "version": agent.version, "connectedAt": now}
    elif status == Agent.Status.OFFLINE:
        event_type = "agent.disconnected"
        data |= {"reason": agent.disconnect_reason, "disconnectedAt": now}
    else:
        event_type = "agent.status_changed"
        data |= {"previousStatus": str(was), "status": status, "changedAt": now}
    yield Change(event_type, agent.owner_id, data, f"agent:{agent.id}")


describe_changes_of(Session, session_changes)
describe_changes_of(SessionMessage, message_changes)
describe_changes_of(Recording, recording_changes)
describe_changes_of(Agent, agent_changes)
