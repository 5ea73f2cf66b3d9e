"""The screens of django.contrib.admin alone: `python run.py scenario_admin`."""

import re
import unittest
import uuid

from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from scenario import Receiver, new_team, run_worker
from teams.models import Ticket

from webhooks import service
from webhooks.models import Delivery, Event, Redelivery, Webhook


class Screens(unittest.TestCase):
    def setUp(self) -> None:
        self.team = new_team()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.server_close)
        self.addCleanup(self.receiver.shutdown)
        self.webhook = service.create_webhook(
            self.team, name="Tickets", url=self.receiver.url, events=["ticket.*"]
        )
        Ticket.objects.create(team=self.team, title="Leak")
        run_worker()
        self.delivery = Delivery.objects.get(webhook=self.webhook)
        self.browser = Client()
        name = f"root {uuid.uuid4().hex}"
        self.browser.force_login(
            User.objects.create_superuser(name, f"{uuid.uuid4()}@example.com", "x")
        )

    def test_lists_filters_and_pages_open(self) -> None:
        event = Event.objects.get(pk=self.delivery.event_id)
        self.browser.post(f"/admin/webhooks/delivery/{self.delivery.pk}/redeliver/")
        redelivery = Redelivery.objects.order_by("id").last()
        filters = [
            "webhook/?q=Tickets", "webhook/?state=active", "webhook/?kind=platform",
            f"delivery/?owner={self.team.name}", "delivery/?status=SUCCESS&status=FAILED",
            "delivery/?since=1h&type=ticket.created", "delivery/?code=2xx", "event/?type=ticket.created",
            "auditentry/?action=webhook.create", "auditentry/?actor=nobody", "apitoken/?is_service__exact=1",
            "redelivery/new/", "webhook/new/", "apitoken/new/",
        ]  # fmt: skip
        lists = [f"{model}/" for model in (
            "webhook", "delivery", "event", "auditentry", "apitoken", "redelivery", "workerheartbeat"
        )]  # fmt: skip
        whook = f"webhook/{self.webhook.pk}"
        pages = [
            f"delivery/{self.delivery.pk}/change/", f"event/{event.pk}/change/",
            f"redelivery/{redelivery.pk}/change/", f"{whook}/change/",
            *(f"{whook}/{page}/" for page in
              ("settings", "filter", "deliveries", "secrets", "verify", "history", "test", "disable")),
        ]  # fmt: skip
        for page in [*lists, *filters, *pages]:
            answer = self.browser.get(f"/admin/webhooks/{page}")
            self.assertEqual(answer.status_code, 200, page)
            text = answer.content.decode()
            self.assertIn("webhooks/admin.css", text, page)
            self.assertNotIn("unfold", text, page)
        self.assertEqual(self.browser.get("/admin/").status_code, 200)

    def test_a_filter_finds_the_deliveries_of_a_team(self) -> None:
        for text, count in ((self.team.name, 1), (str(self.team.pk), 1), (new_team().name, 0)):
            page = self.browser.get("/admin/webhooks/delivery/", {"owner": text}).content.decode()
            self.assertEqual(len(re.findall('<th class="field-', page)), count, page)

    def test_a_webhook_of_a_team_is_made_changed_and_deleted(self) -> None:
        new = {
            "owner": self.team.name, "name": "Made here", "url": self.receiver.url, "events": ["*"],
        }  # fmt: skip
        suggested = self.browser.get("/admin/webhooks/webhook/owners/", {"q": self.team.name[:30]})
        self.assertIn(self.team.name, suggested.json()["owners"])
        made = self.browser.post("/admin/webhooks/webhook/new/", new)
        self.assertIn(made.status_code, (200, 302), made.content.decode())
        webhook = Webhook.objects.get(owner=self.team, name="Made here")
        path = f"/admin/webhooks/webhook/{webhook.pk}"
        page = self.browser.get(f"{path}/settings/")
        self.assertIn(f"{path}/secrets/", page.content.decode(), "the tabs")
        form = page.context["adminform"].form
        data = {name: form[name].value() for name in form.fields}
        data = {
            name: value for name, value in data.items() if value is not None and value is not False
        }
        changed = self.browser.post(f"{path}/settings/", data | {"name": "Changed"})
        problems = changed.context and changed.context["adminform"].form.errors
        self.assertEqual(changed.status_code, 302, problems)
        webhook.refresh_from_db()
        self.assertEqual(webhook.name, "Changed")
        self.browser.post(f"{path}/remove/")
        webhook.refresh_from_db()
        self.assertIsNotNone(webhook.deleted_at)

    def test_unfold_is_not_loaded(self) -> None:
        base = type(admin.site.get_model_admin(Webhook)).__mro__
        self.assertFalse([one for one in base if one.__module__.startswith("unfold")])
