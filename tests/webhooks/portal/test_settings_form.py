"""Every setting that the form asks for stands on its page."""

import pytest
from django.test import Client

from tests.webhooks.portal.conftest import Things
from tests.webhooks.portal.test_tasks import SETTINGS
from tests.webhooks.versions import SECOND, parcels
from webhooks import service
from webhooks.models import Webhook

pytestmark = pytest.mark.django_db


def test_page_sent_back_as_it_came_changes_one_name(owner_client: Client, things: Things) -> None:
    path = f"/portal/webhook/{things.webhook.public_id}/settings/"
    page = owner_client.get(path)
    form, html = page.context["form"], page.content.decode()
    sent = {
        name: form[name].value()
        for name in form.fields
        if f'name="{name}"' in html
        and form[name].value() is not None
        and form[name].value() is not False
    }

    assert {name for name in form.fields if f'name="{name}"' not in html} <= {"remove_headers"}
    assert owner_client.post(path, sent | {"name": "Renamed"}).status_code == 302
    things.webhook.refresh_from_db()
    assert (things.webhook.name, things.webhook.filter) == ("Renamed", None)
    sent["revision"] = things.webhook.revision

    chosen = {"form": "fields", "data_fields": "id, name"}
    assert owner_client.post(path, sent | chosen).status_code == 302
    things.webhook.refresh_from_db()
    sent["revision"] = things.webhook.revision
    assert (things.webhook.form, things.webhook.data_fields) == ("fields", ["id", "name"])
    assert 'value="id,name"' in owner_client.get(path).content.decode()
    unknown = owner_client.post(path, sent | chosen | {"data_fields": "nmae"})
    assert "nmae: project.created" in unknown.content.decode()

    broken = owner_client.post(path, sent | {"filter": '{"nothing.like.it": 1'})
    assert broken.status_code == 422
    assert "This is not JSON." in broken.content.decode()


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", "The settings were changed meanwhile"), ("de", "inzwischen geändert")],
)
def test_an_old_page_takes_nothing_back(
    owner_client: Client, things: Things, language: str, said: str
) -> None:
    path = f"/portal/webhook/{things.webhook.public_id}/settings/"
    old = SETTINGS | {"revision": things.webhook.revision, "name": "Mine", "events": ["*"]}
    assert f'name="revision" value="{old["revision"]}"' in owner_client.get(path).content.decode()
    service.update_webhook(things.webhook, events=["project.deleted"], rate_limit=7)

    refused = owner_client.post(path, old, headers={"Accept-Language": language})
    page = refused.content.decode()

    assert refused.status_code == 422
    assert said in page
    assert 'value="7.0"' in page.replace("7,0", "7.0")
    assert 'value="project.deleted" id="event-project.deleted" checked' in page
    assert f'name="revision" value="{things.webhook.revision}"' in page
    things.webhook.refresh_from_db()
    assert (things.webhook.name, things.webhook.events) == ("Orders", ["project.deleted"])

    # A program's form names no revision.
    assert owner_client.post(path, SETTINGS | {"name": "Mine"}).status_code == 302


@pytest.mark.parametrize("text", [r'{"id": "\ud800"}', r'{"\ud800": 1}', "9" * 4301])
def test_a_filter_that_cannot_be_stored_is_refused(
    owner_client: Client, things: Things, text: str
) -> None:
    path = f"/portal/webhook/{things.webhook.public_id}/settings/"

    assert owner_client.post(path, SETTINGS | {"filter": text}).status_code == 422


@pytest.mark.parametrize(
    ("language", "said"), [("en", "either, not both"), ("de", "eines von beiden")]
)
def test_headers_are_given_or_removed(
    owner_client: Client, things: Things, language: str, said: str
) -> None:
    service.update_webhook(things.webhook, headers={"X-Old": "1"})
    path = f"/portal/webhook/{things.webhook.public_id}/settings/"
    both = SETTINGS | {"custom_headers": "X-New: 2", "remove_headers": "on"}

    answer = owner_client.post(path, both, headers={"Accept-Language": language})

    assert answer.status_code == 422
    assert said in answer.content.decode()
    things.webhook.refresh_from_db()
    assert things.webhook.headers == {"X-Old": "1"}


def test_patterns_that_left_the_catalogue_stay(owner_client: Client, things: Things) -> None:
    kept = ["gone.away", "project.*"]
    Webhook.objects.filter(pk=things.webhook.pk).update(events=kept)
    path = f"/portal/webhook/{things.webhook.public_id}/settings/"

    page = owner_client.get(path).content.decode()
    assert 'value="gone.away" id="event-gone.away" checked' in page
    assert owner_client.post(path, SETTINGS | {"events": kept, "name": "New"}).status_code == 302

    things.webhook.refresh_from_db()
    assert (things.webhook.name, things.webhook.events) == ("New", kept)
    assert owner_client.post(path, SETTINGS).status_code == 302
    things.webhook.refresh_from_db()
    assert things.webhook.events == ["project.*"]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"form": "raw"}, "&quot;Payroll 2027&quot;"),
        ({"form": "fields", "data_fields": "name"}, "{&quot;name&quot;:&quot;Payroll 2027&quot;}}"),
        ({"form": "cloudevents-binary"}, "ce-type: project.deleted"),
        ({"form": "fields", "data_fields": "nmae"}, "nmae: project.deleted has no such field"),
        ({"form": "xml"}, "xml"),
    ],
)
def test_an_event_is_shown_as_another_webhook_would_get_it(
    owner_client: Client, things: Things, query: dict[str, str], shown: str
) -> None:
    path = f"/portal/event/{things.event.public_id}/"
    page = owner_client.get(path, query | {"version": "2026-01-01"})

    assert page.status_code == 200
    assert shown in page.content.decode()


def test_a_version_is_chosen_and_shown_with_its_type(owner_client: Client, things: Things) -> None:
    path = f"/portal/webhook/{things.webhook.public_id}/settings/"
    sent = SETTINGS | {"url": things.webhook.url, "events": ["*"], "debounce_seconds": "30"}

    with parcels():
        saved = owner_client.post(path, sent | {"version": "2026-06-01"})
        page = owner_client.get(path).content.decode()
        shown = owner_client.get("/portal/event-types/parcel.updated/").content.decode()

    things.webhook.refresh_from_db()
    assert saved.status_code == 302
    assert (things.webhook.version, things.webhook.debounce_seconds) == (SECOND, 30)
    assert '<option value="2026-06-01" selected>' in page
    assert "deprecated since 2026-11-20" in shown
    assert "&quot;place&quot;" in shown
