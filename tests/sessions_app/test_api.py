"""`/sessions`, `/recordings`, `/agents`: the operations of the guide's services, by HTTP."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session, SessionMessage
from webhooks.models import ApiToken
from webhooks.testing import captured_events


@pytest.fixture
def client(user: User) -> APIClient:
    _, token = ApiToken.objects.issue(user, name="a", scopes=["read", "write"], lifetime=None)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


@pytest.fixture
def session(user: User, project: Project) -> Session:
    return Session.objects.create(owner=user, project=project, title="Fix the login form")


def call(client: APIClient, path: str, body: Any = None) -> Any:
    return client.post(f"/api/v1/{path}", body)


def test_life_of_a_session(client: APIClient, project: Project) -> None:
    path = ""
    for step, body, event_type in (
        ("", {"projectId": str(project.id), "title": "Fix"}, "session.started"),
        ("/messages", {"sender": "Ada", "content": "Hello"}, "session.message"),
        ("/pause", None, "session.paused"),
        ("/resume", None, "session.resumed"),
        ("/end", None, "session.ended"),
    ):
        with captured_events() as captured:
            response = call(client, f"sessions{path}{step}", body)
        assert response.status_code in (200, 201), response.content
        path = path or f"/{response.json()['id']}"
        assert captured.types == [event_type]

    shown = client.get(f"/api/v1/sessions{path}").json()
    assert shown["status"] == "COMPLETED"
    assert shown["endedAt"] is not None
    assert shown["projectId"] == str(project.id)
    messages = client.get(f"/api/v1/sessions{path}/messages").json()["results"]
    assert [one["content"] for one in messages] == ["Hello"]


def test_impossible_step_is_a_conflict(client: APIClient, session: Session) -> None:
    response = call(client, f"sessions/{session.id}/resume")

    assert response.status_code == 409
    assert "Cannot resume a session from ACTIVE" in response.json()["detail"]


def test_sessions_are_filtered(client: APIClient, user: User, session: Session) -> None:
    other = Project.objects.create(owner=user, name="Shop")

    def count(query: str) -> int:
        return len(client.get(f"/api/v1/sessions?{query}").json()["results"])

    assert count(f"project={session.project_id}") == 1
    assert count(f"project={other.id}") == 0
    assert count("status=ACTIVE") == 1
    assert count("status=PAUSED") == 0
    assert client.get("/api/v1/sessions?project=1").status_code == 400


def test_life_of_a_recording(client: APIClient, session: Session) -> None:
    recording = call(client, "recordings", {"sessionId": str(session.id), "title": "Screen"})
    path = f"recordings/{recording.json()['id']}"
    done = {
        "url": "https://cdn.example.com/r/1.webm",
        "durationSeconds": 60,
        "fileSizeBytes": 1024,
    }

    with captured_events() as captured:
        completed = call(client, f"{path}/complete", done)
        again = call(client, f"{path}/complete", done)
        failed = call(client, f"{path}/fail", {"error": "Cut off"})

    assert captured.types == ["recording.completed"]
    assert captured.data_of("recording.completed")[0]["fileSize"] == 1024
    assert (completed.status_code, again.status_code, failed.status_code) == (200, 409, 409)
    assert completed.json()["status"] == "READY"


def test_recording_fails(client: APIClient, session: Session) -> None:
    recording = Recording.objects.create(session=session, title="Screen")

    with captured_events() as captured:
        failed = call(client, f"recordings/{recording.id}/fail", {"error": "Cut off"})

    assert failed.json()["error"] == "Cut off"
    assert captured.types == ["recording.failed"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": "javascript:alert(1)", "durationSeconds": 1, "fileSizeBytes": 1},
        {"url": "https://x.example/", "durationSeconds": -1, "fileSizeBytes": 1},
        {"url": "https://x.example/", "durationSeconds": 1, "fileSizeBytes": 2**70},
        {"url": "https://x.example/", "durationSeconds": 1, "fileSizeBytes": 1, "status": "READY"},
    ],
)
def test_wrong_completion_is_refused(
    client: APIClient, session: Session, body: dict[str, Any]
) -> None:
    recording = Recording.objects.create(session=session, title="Screen")

    assert call(client, f"recordings/{recording.id}/complete", body).status_code == 400
    assert Recording.objects.get().status == "UPLOADING"


def test_no_recording_is_larger_than_a_petabyte(client: APIClient, session: Session) -> None:
    recording = Recording.objects.create(session=session, title="Screen")
    path = f"recordings/{recording.id}/complete"
    body = {"url": "https://x.example/", "durationSeconds": 1}

    refused = call(client, path, body | {"fileSizeBytes": 10**15 + 1})
    assert refused.status_code == 400
    assert refused.json()["detail"] == (
        "fileSizeBytes: Ensure this value is less than or equal to 1000000000000000."
    )
    assert call(client, path, body | {"fileSizeBytes": 10**15}).status_code == 200


def test_life_of_an_agent(client: APIClient) -> None:
    wish = {"name": "Desktop", "platform": "linux", "version": "2.4"}
    path = f"agents/{call(client, 'agents', wish).json()['id']}"

    for step, body, event_type, status in (
        ("connect", None, "agent.connected", "ONLINE"),
        ("status", {"status": "BUSY"}, "agent.status_changed", "BUSY"),
        ("status", {"status": "ONLINE"}, "agent.status_changed", "ONLINE"),
        ("disconnect", {"reason": "heartbeat lost"}, "agent.disconnected", "OFFLINE"),
    ):
        with captured_events() as captured:
            response = call(client, f"{path}/{step}", body)
        assert response.json()["status"] == status
        assert captured.types == [event_type]

    assert captured.data_of("agent.disconnected")[0]["reason"] == "heartbeat lost"
    assert call(client, f"{path}/disconnect").status_code == 409
    assert call(client, f"{path}/status", {"status": "OFFLINE"}).status_code == 400
    assert client.patch(f"/api/v1/{path}", {"version": "2.5"}).json()["version"] == "2.5"
    assert client.delete(f"/api/v1/{path}").status_code == 204
    assert not Agent.objects.exists()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sessions", {"title": "x", "status": "PAUSED"}),
        ("sessions", {"title": "x", "owner": "me"}),
        ("sessions", {"title": "x", "projectId": "1"}),
        ("sessions", {"title": "x", "projectId": ["1"]}),
        ("recordings", {"title": "x", "status": "READY"}),
        ("agents", {"name": "x", "platform": "x", "version": "1", "status": "ONLINE"}),
        ("agents", {"name": "x", "platform": "x", "version": "1", "lastSeenAt": None}),
    ],
)
def test_read_only_fields_are_refused(
    client: APIClient, session: Session, path: str, body: dict[str, Any]
) -> None:
    assert call(client, path, body).status_code == 400
    assert Session.objects.count() == 1
    assert not Recording.objects.exists()
    assert not Agent.objects.exists()
    assert not SessionMessage.objects.exists()
