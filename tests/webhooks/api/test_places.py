"""The API in a project that includes it elsewhere, in a namespace, or beside routes of its own."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path, set_script_prefix
from django.views.decorators.csrf import csrf_exempt
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.test import APIClient
from rest_framework.viewsets import ViewSet

from projects.models import User
from tests.webhooks.api.conftest import authorization_of
from tests.webhooks.api.test_door import NEW, BeforeDjango, is_of_door
from webhooks.api.events import EventViewSet
from webhooks.wire.url_rules import accept_url


@csrf_exempt
def own_page(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"length": len(request.body)})


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
