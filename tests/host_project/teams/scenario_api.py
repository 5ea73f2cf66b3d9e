"""The HTTP API and the portal where teams own webhooks: `TEAM_API=1 python run.py scenario_api`."""

import json
import re
import unittest
import uuid

from django.contrib.auth.models import Permission, User
from django.test import Client
from scenario import Receiver, new_team, run_worker
from teams.models import Ticket

from webhooks import service
from webhooks.models import ApiToken, AuditEntry, Delivery, Event, Redelivery, Webhook
from webhooks.models.owner_keys import plain_owner_key


class Caller:
    """A program with a token of a user, which names a team."""

    def __init__(self, user, *, is_service=False, scopes=("read", "write", "trigger")):
        _, text = ApiToken.objects.issue(
            user, name="of a test", scopes=list(scopes), lifetime=None, is_service=is_service,
        )  # fmt: skip
        self.headers = {"Authorization": f"Bearer {text}"}

    def __call__(self, method, path, body=None, *, team=None, **headers):
        told = self.headers | headers | ({"X-Team": team.name} if team else {})
        sent = {} if body is None else {"data": json.dumps(body)}
        return Client(headers=told).generic(
            method, f"/api/v1/{path}", content_type="application/json", **sent
        )


class TeamsByHttp(unittest.TestCase):
    def setUp(self) -> None:
        self.first, self.second, self.strangers = new_team(), new_team(), new_team()
        name = f"user {uuid.uuid4().hex}"
        self.user = User.objects.create_user(name, password="correct horse")
        for team in (self.first, self.second):
            team.members.add(self.user)
        self.call = Caller(self.user)
        self.receiver = Receiver()
        self.addCleanup(self.receiver.server_close)
        self.addCleanup(self.receiver.shutdown)
        self.new = {"name": "Tickets", "url": self.receiver.url, "events": ["ticket.*"]}

    def test_a_user_manages_the_webhooks_of_the_team_he_names(self) -> None:
        made = self.call("POST", "webhooks", self.new, team=self.first)
        self.assertEqual(made.status_code, 201, made.content)
        webhook = Webhook.objects.get(owner=self.first)
        shown = [
            [one["id"] for one in self.call("GET", "webhooks", team=team).json()["results"]]
            for team in (self.first, self.second)
        ]
        self.assertEqual(shown, [[webhook.public_id], []])
        path = f"webhooks/{webhook.public_id}"
        self.assertEqual(self.call("GET", path, team=self.second).status_code, 404)
        for team in (self.strangers, None):  # not a member; not said which one
            self.assertEqual(self.call("GET", "webhooks", team=team).status_code, 403)

    def test_scopes_hold_whatever_the_project_sets_for_its_own_api(self) -> None:
        reader = Caller(self.user, scopes=["read"])
        self.assertEqual(reader("GET", "webhooks", team=self.first).status_code, 200)
        refused = reader("POST", "webhooks", self.new, team=self.first)
        self.assertEqual(refused.status_code, 403)
        self.assertEqual(refused["Content-Type"], "application/problem+json")
        anybody = Client().get("/api/v1/webhooks", headers={"X-Team": self.first.name})
        self.assertEqual(anybody.status_code, 401)
        signed_in = Client(headers={"X-Team": self.first.name})
        signed_in.force_login(self.user)
        self.assertEqual(signed_in.get("/api/v1/webhooks").status_code, 401)

    def test_an_event_is_the_teams_and_reaches_its_webhook(self) -> None:
        self.call("POST", "webhooks", self.new, team=self.first)
        wish = {"type": "ticket.created", "data": {"id": 1, "title": "Leak"}}
        one = self.call("POST", "events", wish, team=self.first)
        self.assertEqual(one.status_code, 201, one.content)
        self.assertEqual(one.json()["userId"], plain_owner_key(self.first.pk))
        many = self.call("POST", "events/batch", {"events": [wish, wish]}, team=self.first)
        self.assertEqual(many.json()["accepted"], 2, many.content)
        refused = self.call(
            "POST", "events", wish | {"userId": plain_owner_key(self.second.pk)}, team=self.first
        )
        self.assertEqual(refused.status_code, 403)
        run_worker()
        self.assertEqual(len(self.receiver.requests), 3)
        listed = self.call("GET", "events", team=self.first).json()["results"]
        self.assertEqual([one["webhookCount"] for one in listed], [1, 1, 1])
        self.assertEqual(self.call("GET", "events", team=self.second).json()["results"], [])
        deliveries = self.call("GET", "deliveries", team=self.first).json()["results"]
        again = self.call(
            "POST", f"deliveries/{deliveries[0]['id']}/redeliver", {}, team=self.first
        )
        self.assertEqual(again.status_code, 202, again.content)
        for team, count in ((self.first, 1), (self.second, 0)):
            seen = self.call("GET", "redeliveries", team=team).json()["results"]
            self.assertEqual(len(seen), count)

    def test_a_service_names_any_team(self) -> None:
        staff = User.objects.create_user(f"staff {uuid.uuid4().hex}", is_staff=True)
        staff.user_permissions.set(Permission.objects.filter(content_type__app_label="webhooks"))
        call = Caller(staff, is_service=True)
        wish = {
            "type": "ticket.created",
            "data": {"id": 1, "title": "Leak"},
            "userId": plain_owner_key(self.first.pk),
        }
        self.assertEqual(call("POST", "events", wish).status_code, 201)
        self.assertEqual(call("POST", "events/batch", {"events": [wish]}).json()["accepted"], 1)
        self.assertEqual(Event.objects.for_owner(self.first.pk).count(), 2)
        absent = plain_owner_key(uuid.uuid4()) if isinstance(self.first.pk, uuid.UUID) else (
            2**62 if isinstance(self.first.pk, int) else "nobody"
        )  # fmt: skip
        self.assertEqual(call("POST", "events", wish | {"userId": absent}).status_code, 400)
        link = call("POST", "portal-links", {"userId": plain_owner_key(self.first.pk)})
        self.assertEqual(link.status_code, 201, link.content)

    def test_one_idempotency_key_serves_each_team(self) -> None:
        key = {"Idempotency-Key": uuid.uuid4().hex}
        ids = [
            self.call("POST", "webhooks", self.new, team=team, **key).json()["id"]
            for team in (self.first, self.second, self.first)
        ]
        self.assertEqual(ids[0], ids[2])
        self.assertNotEqual(ids[0], ids[1])

    def test_the_portal_shows_the_team_of_the_user(self) -> None:
        service.create_webhook(self.first, **self.new)
        browser = Client(headers={"X-Team": self.first.name})
        browser.force_login(self.user)
        page = browser.get("/portal/")
        self.assertContains(page, "Tickets")
        self.assertContains(page, self.first.name)
        for path in ("deliveries/", "figures/", "sharing/", "inbox/", "live/", "event-types/"):
            self.assertEqual(browser.get(f"/portal/{path}").status_code, 200, path)
        other = Client(headers={"X-Team": self.strangers.name})
        other.force_login(self.user)
        self.assertEqual(other.get("/portal/").status_code, 403)

    def test_a_link_opens_the_portal_of_a_team(self) -> None:
        webhook = service.create_webhook(self.first, **self.new)
        Ticket.objects.create(team=self.first, title="Leak")
        run_worker()
        link = service.create_portal_link(
            self.first, capabilities=["manage", "secrets"], created_by=self.user
        )
        browser = Client()
        opened = browser.post(f"/portal/open/{link.key}/")
        self.assertEqual(opened.status_code, 302)
        start = opened["Location"]
        self.assertContains(browser.get(start), "Tickets")
        delivery = Delivery.objects.get(webhook=webhook)
        browser.post(f"{start}delivery/{delivery.public_id}/resend/")
        run_worker()
        self.assertEqual(len(self.receiver.requests), 2)
        resent = Redelivery.objects.order_by("id").last()
        self.assertIsNone(resent.requested_by_id)
        recovery = f"{start}webhook/{webhook.public_id}/recover/"
        Delivery.objects.filter(pk=delivery.pk).update(status="FAILED")
        begun = browser.post(recovery, {"kind": "failed", "since": "2026-01-01T00:00:00"})
        self.assertEqual(begun.status_code, 302)
        asked = Redelivery.objects.order_by("id").last()
        self.assertContains(browser.get(begun["Location"]), "Sending deliveries again")
        self.assertContains(
            browser.get(f"{start}redelivery/{resent.public_id}/"), "Sending deliveries again"
        )
        earlier = browser.get(recovery).content.decode()
        self.assertIn(asked.public_id, earlier)
        self.assertNotIn(resent.public_id, earlier)
        self.assertIsNone(AuditEntry.objects.order_by("id").last().actor_id)
        self.assertTrue(
            re.search("disable", browser.get(f"{start}webhook/{webhook.public_id}/").text)
        )

    def assertContains(self, page, text) -> None:
        self.assertEqual(page.status_code, 200)
        self.assertIn(text, page.content.decode())
