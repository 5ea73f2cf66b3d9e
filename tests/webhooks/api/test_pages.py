"""Lists: bounded pages, honest cursors, as many queries for fifty rows as for one, from an index."""

import base64
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session, SessionMessage
from tests.webhooks.api.conftest import MakeClient
from tests.webhooks.api.matrix import World
from webhooks import service
from webhooks.figures import pages as keyset
from webhooks.ids import new_id
from webhooks.models import ApiToken, Delivery

DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Website",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}


def walk(client: APIClient, url: str, link: str = "next") -> list[list[str]]:
    """Return the ids of all pages."""
    pages = []
    while url:
        page = client.get(url).json()
        pages.append([row["id"] for row in page["results"]])
        url = page[link]
    return pages


@pytest.fixture
def projects(user: User, other_user: User) -> list[str]:
    made = Project.objects.bulk_create(Project(owner=user, name=str(n)) for n in range(7))
    Project.objects.create(owner=other_user, name="Not yours")
    return [str(one.id) for one in reversed(made)]


def test_pages_are_newest_first_and_without_gaps(client: APIClient, projects: list[str]) -> None:
    pages = walk(client, "/api/v1/projects?limit=3")

    assert pages == [projects[:3], projects[3:6], projects[6:]]


def test_pages_are_oldest_first_where_that_is_asked_for(
    client: APIClient, projects: list[str]
) -> None:
    url = "/api/v1/projects?limit=3&order=oldest"
    upwards = projects[::-1]

    pages = walk(client, url)
    last = client.get(client.get(client.get(url).json()["next"]).json()["next"]).json()

    assert pages == [upwards[:3], upwards[3:6], upwards[6:]]
    assert [row["id"] for row in client.get(last["previous"]).json()["results"]] == upwards[3:6]
    assert client.get("/api/v1/projects?order=name").status_code == 400


WITH_TIME_RANGE = [
    "agents", "deliveries", "events", "projects", "recordings", "redeliveries", "sessions",
    "sessions/SESSION/messages", "tokens", "webhooks", "webhooks/WEBHOOK/deliveries",
]  # fmt: skip


@pytest.mark.parametrize("path", WITH_TIME_RANGE)
def test_every_list_has_a_time_range(client: APIClient, world: World, path: str) -> None:
    SessionMessage.objects.create(session_id=world.ids["session"], sender="A", content="Hi")
    path = path.replace("SESSION", world.ids["session"]).replace("WEBHOOK", world.ids["webhook"])

    def count(query: str) -> int:
        return len(client.get(f"/api/v1/{path}?{query}").json()["results"])

    assert count("since=2020-01-01T00:00:00Z") > 0
    assert count("until=2020-01-01T00:00:00Z") == count("since=2100-01-01T00:00:00Z") == 0


def test_pages_of_the_catalogue_lead_back(client: APIClient) -> None:
    first = client.get("/api/v1/event-types?limit=4").json()
    second = client.get(first["next"]).json()

    assert (first["previous"], len(first["results"])) == (None, 4)
    assert client.get(second["previous"]).json() == first
    assert client.get("/api/v1/event-types?order=oldest").status_code == 400


def test_pages_lead_back(client: APIClient, projects: list[str]) -> None:
    first = client.get("/api/v1/projects?limit=3").json()
    second = client.get(first["next"]).json()
    third = client.get(second["next"]).json()

    assert first["previous"] is None
    assert third["next"] is None
    back = client.get(third["previous"]).json()
    assert back["results"] == second["results"]
    assert client.get(back["next"]).json()["results"] == third["results"]
    front = client.get(back["previous"]).json()
    assert front["results"] == first["results"]
    assert front["previous"] is None


def test_rows_that_come_meanwhile_are_on_the_page_before(
    client: APIClient, user: User, projects: list[str]
) -> None:
    first = client.get("/api/v1/projects?limit=3").json()
    fresh = Project.objects.create(owner=user, name="New")

    second = client.get(first["next"]).json()
    newest = client.get(client.get(second["previous"]).json()["previous"]).json()

    assert [row["id"] for row in second["results"]] == projects[3:6]
    assert [row["id"] for row in newest["results"]] == [str(fresh.id)]
    again = client.get(newest["next"]).json()["results"]
    assert [row["id"] for row in again] == projects[:3]


def test_nothing_newer_leads_to_the_first_page(client: APIClient, projects: list[str]) -> None:
    cursor = keyset.Cursor(UUID(projects[0]), is_backward=True).encode()

    page = client.get(f"/api/v1/projects?cursor={cursor}").json()

    assert page["results"] == []
    assert page["previous"] is None
    assert len(client.get(page["next"]).json()["results"]) == 7


@pytest.mark.parametrize(
    "limit", ["0", "-1", "101", "1000000000", "9" * 400, "NaN", "1e1", "1.0", " 5", "٣", "", "0x10"]
)
def test_limit_out_of_range_is_refused(client: APIClient, limit: str) -> None:
    response = client.get("/api/v1/projects", {"limit": limit})

    assert response.status_code == 400
    assert response.json()["errors"][0]["parameter"] == "limit"


FORGED = {
    "nothing": "",
    "text": "abc",
    "an id": "whk_01935710",
    "not base64": "!!!",
    "not ASCII": "äöü",
    "truncated": keyset.Cursor(new_id()).encode()[:-3],
    "longer": keyset.Cursor(new_id()).encode() + "AAAA",
    "other direction": base64.urlsafe_b64encode(b"x" + new_id().bytes).decode().rstrip("="),
    "SQL": base64.urlsafe_b64encode(b"n' OR 1=1 --12345").decode()[:-2],
    "long": "A" * 10_000,
    "an offset": base64.b64encode(b"o=1000000000000").decode(),
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_cursor_is_refused(client: APIClient, kind: str) -> None:
    response = client.get("/api/v1/projects", {"cursor": FORGED[kind]})

    assert response.status_code == 400
    assert response.json()["errors"][0]["parameter"] == "cursor"


def test_cursor_of_somebody_else_shows_only_own_rows(
    user: User, other_user: User, make_client: MakeClient, projects: list[str]
) -> None:
    link = make_client(user).get("/api/v1/projects?limit=1").json()["next"]

    page = make_client(other_user).get(link).json()

    assert page["results"] == []


def test_filter_without_an_index_looks_at_a_bounded_number_of_rows(
    client: APIClient, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyset, "MAX_SCANNED", 4)
    Project.objects.bulk_create(
        Project(owner=user, name=str(number), archived=number in (0, 9)) for number in range(10)
    )

    pages = [len(page) for page in walk(client, "/api/v1/projects?archived=true&limit=2")]

    assert pages == [1, 0, 1]
    both = [row for page in walk(client, "/api/v1/projects?archived=true") for row in page]
    assert len(both) == 2


# Queries and plans.


def _webhooks(user: User, count: int) -> None:
    for number in range(count):
        service.create_webhook(
            user,
            name=str(number),
            url="http://127.0.0.1:9/",
            events=["user.updated"],
            headers={"X-A": "b"},
        )


def _deliveries(user: User, count: int) -> None:
    webhook = service.create_webhook(user, name="a", url="http://127.0.0.1:9/", events=["*"])
    events = service.trigger_events(
        service.Trigger("project.deleted", user, DATA) for _ in range(count)
    )
    first = Delivery.objects.filter(webhook=webhook).order_by("id").first()
    assert first is not None
    for number in range(count):
        first.attempts.create(
            number=number,
            started_at=events[0].created_at,
            duration_ms=1,
            url=webhook.url,
            request_head="",
        )


def _projects(user: User, count: int) -> None:
    Project.objects.bulk_create(Project(owner=user, name="a") for _ in range(count))


def _sessions(user: User, count: int) -> None:
    project = Project.objects.create(owner=user, name="a")
    session = Session.objects.create(owner=user, project=project, title="a")
    for _ in range(count - 1):
        Session.objects.create(owner=user, project=project, title="a")
    for _ in range(count):
        Recording.objects.create(session=session, title="a")
        SessionMessage.objects.create(session=session, sender="a", content="b")


def _agents(user: User, count: int) -> None:
    for _ in range(count):
        Agent.objects.create(owner=user, name="a", platform="linux", version="1")


def _redeliveries(user: User, count: int) -> None:
    webhook = service.create_webhook(user, name="a", url="http://127.0.0.1:9/", events=["*"])
    for _ in range(count):
        service.redeliver(service.Scope(webhook_id=webhook.id), requested_by=user)


def _tokens(user: User, count: int) -> None:
    for _ in range(count - 1):
        ApiToken.objects.issue(user, name="a", scopes=["read"], lifetime=None)


AROUND = 3
"""Statements that begin and end the transaction, and limit the time of what is in it."""

COSTS: dict[str, tuple[Callable[[User, int], None], int]] = {
    # Two besides the list: the token with its user, and the edge of a filter's scan.
    "webhooks": (_webhooks, 2),
    "webhooks?active=true": (_webhooks, 2),
    "deliveries": (_deliveries, 2),
    "deliveries?status=PENDING": (_deliveries, 3),
    "events": (_deliveries, 2),
    "events?type=project.deleted": (_deliveries, 3),
    "projects": (_projects, 2),
    "sessions": (_sessions, 2),
    "recordings": (_sessions, 2),
    "agents": (_agents, 2),
    "redeliveries": (_redeliveries, 3),
    "tokens": (_tokens, 2),
}


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("path", COSTS)
def test_list_takes_a_constant_number_of_queries(
    client: APIClient,
    user: User,
    django_assert_num_queries: Any,
    path: str,
    count: int,
) -> None:
    fill, queries = COSTS[path]
    fill(user, count)
    client.get("/api/v1/event-types")  # notes the use of the token
    separator = "&" if "?" in path else "?"

    with django_assert_num_queries(AROUND + queries):
        page = client.get(f"/api/v1/{path}{separator}limit=100").json()

    assert len(page["results"]) >= count


@pytest.mark.parametrize("count", [1, 50])
def test_detail_takes_a_constant_number_of_queries(
    client: APIClient, user: User, django_assert_num_queries: Any, count: int
) -> None:
    _deliveries(user, count)
    client.get("/api/v1/event-types")
    delivery = Delivery.objects.order_by("id").first()
    assert delivery is not None

    with django_assert_num_queries(AROUND + 3):
        shown = client.get(f"/api/v1/deliveries/{delivery.public_id}").json()

    assert len(shown["attempts"]) == count


PLANS = {
    "webhooks": "webhook_owner",
    "deliveries": "delivery_owner",
    "deliveries?status=FAILED": "delivery_owner",
    "deliveries?responseClass=5xx&eventType=project.deleted": "delivery_owner",
    "deliveries?since=1971-01-01T00:00:00Z&until=9000-01-01T00:00:00Z": "delivery_owner",
    "deliveries?webhook=WEBHOOK": "delivery_webhook",
    "deliveries?event=EVENT": "delivery_once_per_webhook",
    "webhooks/WEBHOOK/deliveries": "delivery_webhook",
    "webhooks/WEBHOOK/deliveries?status=FAILED": "delivery_webhook",
    "events": "event_owner",
    "events?type=project.deleted&since=2026-01-01T00:00:00Z": "event_owner",
    "redeliveries": "requested_by_id",
    "tokens": "user_id",
    "projects": "project_owner",
    "sessions": "session_owner",
    "sessions?project=PROJECT": "session_project",
    "recordings": "recording_session",
    "recordings?session=SESSION": "recording_session",
    "sessions/SESSION/messages": "message_session",
    "agents": "agent_owner",
}

CROWD_SQL = """
INSERT INTO projects_project (id, owner_id, name, description, archived, created_at, updated_at)
SELECT gen_random_uuid(), u.id, 'a', '', false, now(), now()
  FROM projects_user u, generate_series(1, 100);
INSERT INTO sessions_app_session (id, owner_id, project_id, title, status, started_at)
SELECT gen_random_uuid(), owner_id, id, 'a', 'ACTIVE', now() FROM projects_project;
INSERT INTO sessions_app_recording (id, session_id, title, url, thumbnail_url, duration_seconds,
                                    file_size_bytes, mime_type, status, error, created_at)
SELECT gen_random_uuid(), id, 'a', '', '', 0, 0, '', 'UPLOADING', '', now()
  FROM sessions_app_session, generate_series(1, 2);
INSERT INTO sessions_app_sessionmessage (id, session_id, sender, content, created_at)
SELECT gen_random_uuid(), id, 'a', 'b', now() FROM sessions_app_session, generate_series(1, 2);
INSERT INTO webhooks_redelivery (id, scope, is_replay, status, matched_count, queued_count,
                                 requested_by_id)
SELECT gen_random_uuid(), '{}', false, 'done', 0, 0, owner_id FROM projects_project;
INSERT INTO webhooks_apitoken (id, user_id, name, scopes, is_service, digest, token_key, created)
SELECT gen_random_uuid(), owner_id, 'a', '{}', false, id::text, '', now() FROM projects_project;
INSERT INTO webhooks_event (id, type, owner_id, payload, fanout_count, object_reference)
SELECT gen_random_uuid(), 'project.deleted', w.owner_id, '', 1, w.id::text
  FROM webhooks_webhook w, generate_series(1, 100);
INSERT INTO webhooks_delivery (id, event_id, webhook_id, owner_id, event_type, status,
    attempt_count, round, attempts_before_round, is_suspect, crash_count, failure_kind, error)
SELECT gen_random_uuid(), id, object_reference::uuid, owner_id, type, 'PENDING', 0, 1, 0, false, 0,
       '', '' FROM webhooks_event WHERE object_reference <> '' AND owner_id IS NOT NULL
   AND type = 'project.deleted';
ANALYZE;
SET LOCAL enable_seqscan = off;
"""
"""A table of a hundred rows is read as a whole whatever its indexes; a larger one would not be."""


@pytest.fixture
def crowd(user: User) -> dict[str, str]:
    """Sixty owners with two webhooks and a hundred of everything each; of one, a row of each kind."""
    owners = User.objects.bulk_create(
        User(username=f"user{number}", email=f"{number}@example.com") for number in range(60)
    )
    for owner in (user, *owners):
        _webhooks(owner, 2)
        Agent.objects.bulk_create(
            Agent(owner=owner, name="a", platform="a", version="1") for _ in range(20)
        )
    with connection.cursor() as cursor:
        cursor.execute(CROWD_SQL)
    delivery = Delivery.objects.filter(owner_id=user.id).first()
    session = Session.objects.filter(owner=user).first()
    assert delivery is not None
    assert session is not None
    return {
        "WEBHOOK": delivery.webhook.public_id,
        "EVENT": delivery.event.public_id,
        "PROJECT": str(session.project_id),
        "SESSION": str(session.id),
    }


def test_lists_are_answered_from_an_index(client: APIClient, crowd: dict[str, str]) -> None:
    wrong = {}
    for path, index in PLANS.items():
        filled = path
        for place, identifier in crowd.items():
            filled = filled.replace(place, identifier)
        with CaptureQueriesContext(connection) as queries:
            response = client.get(f"/api/v1/{filled}")
        assert response.status_code == 200
        listing = [query["sql"] for query in queries if " ORDER BY " in query["sql"]]
        assert listing
        for sql in listing:
            plan = _plan(sql)
            if "Seq Scan" in plan or index not in plan:
                wrong[path] = plan

    assert wrong == {}


def _plan(sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}")
        return "\n".join(row[0] for row in cursor.fetchall())
