"""What a receiver answered is shown as text, to operators and through the API: nothing of it runs."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from pytest_django import Settings

from projects.models import Project, User
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import ApiToken, Delivery, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

BODY = b"</pre><script>alert(1)</script><img src=x onerror=alert(2)>\0\xff\x1b[31m\xe2\x80\xae"
HEADER = ("X-<script>alert(3)</script>", '"><script>alert(4)</script>{{ 7*7 }}')
LIVE = ("<script>alert", "<img src=x", "</pre><script")


@pytest.fixture
def delivery(user: User, make_webhook: Callable[..., Webhook]) -> Delivery:
    with HttpReceiver(behaviour=Behaviour(status=500, body=BODY, headers=(HEADER,))) as receiver:
        make_webhook(url=receiver.url, name="<script>alert(5)</script>")
        Project.objects.create(owner=user, name="<script>alert(6)</script>")
        run_until_idle()
    return Delivery.objects.get()


@pytest.mark.django_db(transaction=True)
def test_operators_see_hostile_answers_as_text(delivery: Delivery) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))

    page = client.get(f"/admin/webhooks/delivery/{delivery.pk}/change/")
    download = client.get(f"/admin/webhooks/delivery/{delivery.pk}/answer/1/")

    text = page.content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;script&gt;alert(4)&lt;/script&gt;{{ 7*7 }}" in text
    assert not [live for live in LIVE if live in text]
    assert "script-src 'self'" in page["Content-Security-Policy"]
    assert download.content == BODY
    assert download["Content-Type"] == "text/plain; charset=utf-8"
    assert download["Content-Disposition"].startswith("attachment;")


@pytest.mark.django_db(transaction=True)
def test_api_gives_hostile_answers_as_json_that_is_not_sniffed(
    user: User, delivery: Delivery, settings: Settings
) -> None:
    settings.DEBUG = True  # the browsable API
    _, token = ApiToken.objects.issue(user, name="t", scopes=["read"], lifetime=timedelta(days=1))

    where = f"/api/v1/deliveries/{delivery.public_id}"
    authorization = {"Authorization": f"Bearer {token}"}

    answer = Client().get(where, headers=authorization)
    page = Client().get(where, headers=authorization | {"Accept": "text/html"})

    assert page["Content-Type"].startswith("text/html")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.content.decode()
    assert not [live for live in LIVE if live in page.content.decode()]
    (attempt,) = answer.json()["attempts"]
    assert answer["Content-Type"].startswith("application/json")
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert attempt["responseBody"] == BODY.decode(errors="replace")
    assert ["X-<script>alert(3)</script>", HEADER[1]] in attempt["responseHeaders"]
