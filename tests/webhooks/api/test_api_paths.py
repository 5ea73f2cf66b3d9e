"""The API in a project that includes it elsewhere, in a namespace, or beside routes of its own."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client
from django.urls import include, path, re_path, set_script_prefix
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.generators import SchemaGenerator
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.test import APIClient
from rest_framework.viewsets import ViewSet

from projects.models import User
from tests.webhooks.api.conftest import MakeClient, authorization_of
from tests.webhooks.api.test_door import NEW, BeforeDjango, is_of_door
from webhooks.api.events import EventViewSet
from webhooks.api.problems import no_such_route
from webhooks.wire.url_rules import accept_url


@csrf_exempt
def own_page(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"length": 1 if request.FILES else len(request.body)})


class Concerts(ViewSet):
    """Of the project, with the names that the framework gives to routes of events."""

    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []

    def create(self, request: Any) -> Response:
        return Response({"concert": "made"}, 201)


concerts = SimpleRouter(trailing_slash=False)
concerts.register("events", Concerts, "event")

OURS = include("webhooks.api.urls")
OWN = path("own", own_page)
ELSEWHERE = (OWN, path("hooks/v2/", OURS))
IN_NAMESPACES = (
    OWN,
    path("a/", include(([path("b/", include(("webhooks.api.urls", "inner")))], "outer"))),
)
TWICE = (OWN, path("old/", OURS), path("new-1.0/", OURS))
BESIDE_CONCERTS = (OWN, path("api/v1/", OURS), path("music/", include(concerts.urls)))
BEHIND_CONCERTS = (OWN, path("api/v1/", include(concerts.urls)), path("api/v1/", OURS))
NOWHERE = (OWN,)

Post = Callable[..., HttpResponse]


@pytest.fixture
def post(client: APIClient) -> Iterator[Post]:
    """Send JSON as a server does."""
    server = APIClient(raise_request_exception=False)
    server.handler = BeforeDjango()  # type: ignore[assignment]
    authorization = authorization_of(client)

    def send(to: str, body: Any, **told: str) -> HttpResponse:
        told = {"HTTP_AUTHORIZATION": authorization} | told
        return server.generic("POST", to, json.dumps(body), "application/json", **told)  # type: ignore[arg-type]

    yield send
    set_script_prefix("/")


@pytest.mark.parametrize("urls", [ELSEWHERE, IN_NAMESPACES, TWICE, BESIDE_CONCERTS, NOWHERE])
@pytest.mark.parametrize("forced", [None, "/sub"])
@pytest.mark.parametrize("mounted", ["", "/mounted"])
def test_pages_of_the_project_get_their_requests(
    post: Post, settings: Any, urls: Any, forced: str | None, mounted: str
) -> None:
    settings.ROOT_URLCONF, settings.FORCE_SCRIPT_NAME = urls, forced

    answer = post("/own", {}, SCRIPT_NAME=mounted)

    assert (answer.status_code, answer.content) == (200, b'{"length": 2}')


@pytest.mark.parametrize(
    ("urls", "root"),
    [
        (ELSEWHERE, "/hooks/v2"),
        (IN_NAMESPACES, "/a/b"),
        (TWICE, "/old"),
        (TWICE, "/new-1.0"),
        (BESIDE_CONCERTS, "/api/v1"),
    ],
)
@pytest.mark.parametrize("script", ["", "/sub"])
@pytest.mark.parametrize("is_forced", [True, False])
def test_door_is_where_the_routes_are(
    post: Post,
    settings: Any,
    urls: Any,
    root: str,
    script: str,
    is_forced: bool,
) -> None:
    settings.ROOT_URLCONF = urls
    settings.FORCE_SCRIPT_NAME = script if is_forced else None
    told = {} if is_forced else {"SCRIPT_NAME": script}

    for _ in range(4):  # the shortcut before Django has learned the headers by then
        answer = post(f"{root}/events", NEW, **told)
        assert answer.status_code == 201, answer.content
        assert is_of_door(answer)
        made = json.loads(answer.content)
        assert answer["Location"] == f"{script}{root}/events/{made['id']}"
    batch = post(f"{root}/events/batch", {"events": [NEW]}, **told)
    assert json.loads(batch.content)["accepted"] == 1


@pytest.mark.parametrize(
    ("urls", "to"), [(BESIDE_CONCERTS, "/music/events"), (BEHIND_CONCERTS, "/api/v1/events")]
)
def test_routes_of_the_project_with_our_names_or_paths_are_its_own(
    post: Post, settings: Any, urls: Any, to: str
) -> None:
    settings.ROOT_URLCONF = urls

    for authorization in ("", "Bearer of-the-project"):
        answer = post(to, NEW, HTTP_AUTHORIZATION=authorization)
        assert (answer.status_code, answer.content) == (201, b'{"concert":"made"}')


def test_view_that_replaces_ours_gets_its_requests(post: Post, settings: Any) -> None:
    class Stricter(EventViewSet):
        def create(self, request: Any) -> Response:
            return Response({}, 202)

    router = SimpleRouter(trailing_slash=False)
    router.register("events", Stricter, "event")
    settings.ROOT_URLCONF = (path("api/v1/", include(router.urls)), path("api/v1/", OURS))

    assert post("/api/v1/events", NEW).status_code == 202


@pytest.mark.parametrize("script", ["/", "/sub/"])
def test_address_of_an_inbox_is_as_others_see_it(user: User, settings: Any, script: str) -> None:
    settings.WEBHOOKS_OWN_HOSTS = ["example.com"]
    set_script_prefix(script)
    try:
        inbox = f"https://example.com{script}portal/in/{'x' * 43}"
        assert accept_url(inbox) == inbox
    finally:
        set_script_prefix("/")


# What holds for the API's paths, and for them alone.


def crash(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("of the project")


OWN_PAGES = (
    path("api/own", own_page),
    path("api/crash", crash),
    path("api/v1/own", own_page),
    path("own", own_page),
    path("webhooks-of-the-project", own_page),
)
HOSTS = {"/api/v1/": "api/v1/", "/hooks/v2/": "hooks/v2/", "/api/": "api/", "/": ""}


@pytest.fixture(params=HOSTS)
def root(request: Any, settings: Any) -> str:
    """The path at which a project with pages of its own includes the API."""
    settings.ROOT_URLCONF = (*OWN_PAGES, path(HOSTS[request.param], OURS))
    return str(request.param)


@pytest.mark.parametrize("to", ["/api/own", "/api/v1/own", "/own", "/webhooks-of-the-project"])
def test_pages_of_the_project_keep_their_own_rules(root: str, settings: Any, to: str) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    browser = Client()
    upload = SimpleUploadedFile("a.bin", b"x" * 3000)

    answers = [
        browser.get(to),
        browser.post(to, {"file": upload}),
        browser.post(to, b"{}", "application/json", headers={"Content-Encoding": "gzip"}),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert all("Cache-Control" not in answer for answer in answers)


def test_crashes_and_absences_of_the_project_stay_its_own(root: str, db: None) -> None:
    browser = Client(raise_request_exception=False)

    for to, status in (("/api/crash", 500), ("/api/nothing", 404)):
        answer = browser.get(to)
        assert (answer.status_code, answer["Content-Type"].split(";")[0]) == (status, "text/html")


def test_rules_of_the_api_go_where_it_goes(
    client: APIClient, root: str, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    client.raise_request_exception = False
    new = {"name": "Orders", "url": "http://127.0.0.1:9/", "events": ["*"]}
    to = f"{root}webhooks"

    made = client.post(to, new)
    assert (made.status_code, made["Cache-Control"]) == (201, "no-store")
    packed = client.post(to, new, HTTP_CONTENT_ENCODING="gzip")
    large = client.post(to, new | {"name": "x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE})
    monkeypatch.setattr("webhooks.api.webhooks.WebhookViewSet.list", lambda *_: 1 / 0)
    crashed = client.get(to)

    answers = (packed, large, crashed)
    assert [answer.status_code for answer in answers] == [415, 413, 500]
    assert {answer["Content-Type"] for answer in answers} == {"application/problem+json"}


@pytest.mark.parametrize("script", ["/", "/sub/"])
def test_problems_name_the_path_and_the_tokens_of_the_project(
    root: str, make_client: MakeClient, user: User, settings: Any, script: str
) -> None:
    settings.WEBHOOKS_TOKEN_PREFIX = "acme_"
    tokens = f"POST {script}{root}tokens".replace("//", "/")
    stranger = APIClient()
    set_script_prefix(script)
    try:
        anybody = stranger.get(f"{root}webhooks").json()["detail"]
        stranger.credentials(HTTP_AUTHORIZATION="Bearer acme_0")
        unknown = stranger.get(f"{root}webhooks").json()["detail"]
        reader = make_client(user, "read").post(f"{root}webhooks", {}).json()["detail"]
    finally:
        set_script_prefix("/")

    assert "Bearer acme_…" in anybody
    assert all(tokens in detail for detail in (anybody, unknown, reader))


def test_unknown_paths_name_the_description_if_there_is_one(settings: Any) -> None:
    details = []
    for more in ((), (path("description", own_page, name="schema"),)):
        settings.ROOT_URLCONF = (*more, re_path("^api/", no_such_route))
        details.append(Client().get("/api/v1/nothing").json()["detail"])

    assert details == [
        "There is no such path.",
        "There is no such path; GET /description lists them all.",
    ]


def test_descriptions_know_the_tokens_and_lists_at_any_path(root: str, settings: Any) -> None:
    generator = SchemaGenerator(patterns=settings.ROOT_URLCONF)  # type: ignore[no-untyped-call]
    described = generator.get_schema(public=True)  # type: ignore[no-untyped-call]
    operations = {
        operation["operationId"]: operation["description"]
        for item in described["paths"].values()
        for operation in item.values()
    }

    assert "Takes a user name and a password" in operations["createToken"]
    assert "Needs the scope `read`." in operations["listWebhooks"]


@pytest.mark.parametrize(
    ("at", "server"),
    [("api/v1/", "http://testserver"), ("hooks/v2/", "http://testserver/hooks/v2")],
)
def test_portal_names_the_server_as_listen_takes_it(
    user: User, settings: Any, at: str, server: str
) -> None:
    settings.ROOT_URLCONF = (
        path(at, OURS),
        path("portal/", include("webhooks.portal.urls")),
    )
    settings.WEBHOOKS_TOKEN_PREFIX = "ours_"
    browser = Client()
    browser.force_login(user)

    page = browser.get("/portal/live/").content.decode()

    assert f"WEBHOOKS_TOKEN=ours_… python manage.py listen --server {server} --forward-to" in page
