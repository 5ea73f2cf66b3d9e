"""What must work in a project where teams own webhooks: `python run.py scenario`.

Without a test database: everything commits, and the worker is a process of its own.
"""

import random
import subprocess
import sys
import threading
import time
import unittest
import uuid
from collections import Counter
from contextlib import redirect_stdout
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO

import django
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import transaction
from django.db.models import CharField, Value
from django.db.models.functions import Cast, Concat, Upper
from teams.models import Note, Team, Ticket

from webhooks import catalog, service
from webhooks.errors import EventDataInvalidError
from webhooks.models import AuditEntry, Delivery, Event, HourFigures, Webhook
from webhooks.repair import audit_log, rollups
from webhooks.testing import captured_events
from webhooks.wire.signing import verify_standard

KEY = settings.KEY


class Receiver(ThreadingHTTPServer):
    """Keeps the requests that came in."""

    def __init__(self) -> None:
        self.requests = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def new_team() -> Team:
    name = f"team {uuid.uuid4().hex}"
    return Team.objects.create(name=name, **({"id": name} if KEY == "text" else {}))


def run_worker() -> None:
    subprocess.run([sys.executable, "manage.py", "webhooks_worker", "--burst"], check=True)


def write_groups(chance: random.Random) -> None:
    """Write some of Django's groups in one of the ways that there are; some writes roll back."""
    name = uuid.UUID(int=chance.getrandbits(128)).hex
    rows = list(Group.objects.order_by("pk"))
    some = chance.sample(rows, min(len(rows), chance.randint(0, 2)))
    keys = [row.pk for row in some]
    way = chance.randrange(8)
    if way == 0:
        Group.objects.create(name=name)
    elif way == 1:
        Group.objects.bulk_create([Group(name=name + "1"), Group(name=name + "2")])
    elif way == 2:
        for row in some:
            row.name = f"{name}{row.pk}"
            row.save()
    elif way == 3:
        Group.objects.filter(pk__in=keys).update(name=Concat(Value(name), Cast("pk", CharField())))
    elif way == 4:
        for row in some:
            row.name = f"{name}{row.pk}"
        Group.objects.bulk_update(some, ["name"])
    elif way == 5:
        Group.objects.filter(pk__in=keys).delete()
    elif way == 6:
        for row in some:
            row.delete()
    else:
        point = transaction.savepoint()
        write_groups(chance)
        transaction.savepoint_rollback(point)


def without_names(told: Counter) -> Counter:
    return Counter((type_, pk) for type_, pk, _ in told.elements())


def of_living(told: Counter) -> Counter:
    return Counter(one for one in told.elements() if one[0] != "group.deleted")


class TeamsOwnWebhooks(unittest.TestCase):
    def setUp(self) -> None:
        self.team, self.other = new_team(), new_team()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.server_close)
        self.addCleanup(self.receiver.shutdown)
        self.webhook = service.create_webhook(
            self.team, name="Tickets", url=self.receiver.url, events=["ticket.*"]
        )

    def test_tickets_of_a_team_reach_its_webhook_only(self) -> None:
        ticket = Ticket.objects.create(team=self.team, title="Leak")
        Ticket.objects.create(team=self.other, title="Somebody else's")
        Ticket.objects.filter(pk=ticket.pk).update(title="Flood")
        run_worker()

        kinds = [headers["x-webhook-event"] for headers, _ in self.receiver.requests]
        self.assertEqual(sorted(kinds), ["ticket.created", "ticket.updated"])
        for headers, body in self.receiver.requests:
            self.assertTrue(verify_standard(self.webhook.secret, headers, body, now=time.time()))
        self.assertEqual(
            set(Delivery.objects.filter(webhook=self.webhook).values_list("status", flat=True)),
            {"SUCCESS"},
        )
        self.assertEqual(
            set(Event.objects.for_owner(self.team.pk).values_list("type", flat=True)), set(kinds)
        )

    def test_a_field_of_each_kind_is_sent_as_its_schema_says(self) -> None:
        ticket = Ticket.objects.create(team=self.team, title="Leak")
        with captured_events() as captured:
            note = Note.objects.create(
                ticket=ticket, text="Wet", price=Decimal("9.5"), kind="quote", facts={"a": [1]}
            )
            Note.objects.filter(pk=note.pk).update(share=0.5)
            note.delete()
        self.assertEqual(captured.types, ["note.created", "note.updated", "note.deleted"])
        self.assertEqual({event.owner_id for event in captured.events}, {self.team.pk})
        for type_, data in captured.types_and_data:
            catalog.validate_data(type_, data)
        (data,) = captured.data_of("note.updated")
        shown = {
            name: data[name]
            for name in ("id", "ticketId", "count", "price", "share", "kind", "facts")
        }
        self.assertEqual(shown, {
            "id": note.pk or data["id"], "ticketId": ticket.pk, "count": 3, "price": "9.50", "share": 0.5,
            "kind": "quote", "facts": {"a": [1]},
        })  # fmt: skip
        self.assertEqual(catalog.get_type("note.created").example["kind"], "plain")

    def test_a_transition_is_an_event_of_its_own(self) -> None:
        ticket = Ticket.objects.create(team=self.team, title="Leak")
        with captured_events() as captured:
            for is_done in (True, True, False, True):
                Ticket.objects.filter(pk=ticket.pk).update(is_done=is_done)
        self.assertEqual(captured.types, ["ticket.closed", "ticket.closed"])

    def test_a_model_of_another_app_is_tracked(self) -> None:
        with captured_events() as captured:
            group = Group.objects.create(name=f"group {uuid.uuid4().hex}")
            group.delete()
        self.assertEqual(captured.types, ["group.created", "group.deleted"])
        shown = StringIO()
        call_command("webhooks_events", stdout=shown)
        self.assertRegex(
            shown.getvalue(), r"(?m)^note\.created +teams\.Note +ticket__team +id, ticketId"
        )
        self.assertRegex(shown.getvalue(), r"(?m)^auth\.Group +id, name$")

    def test_a_process_that_only_stores_events_loads_no_client(self) -> None:
        code = (
            "import sys; from teams.models import Team, Ticket; "
            f"Ticket.objects.create(team=Team.objects.get(name={self.team.name!r}), title='Leak'); "
            "print([name for name in ('pycurl', 'rq', 'rest_framework') if name in sys.modules])"
        )
        shell = [sys.executable, "manage.py", "shell", "-v", "0", "-c", code]
        told = subprocess.run(shell, check=True, capture_output=True, text=True).stdout
        self.assertEqual(told.strip(), "[]")
        self.assertEqual(Delivery.objects.filter(webhook=self.webhook).count(), 1)

    def test_random_histories_of_another_apps_model_tell_what_has_changed(self) -> None:
        for seed in range(60):
            chance = random.Random(seed)
            for _ in range(3):
                before = dict(Group.objects.values_list("pk", "name"))
                with captured_events() as captured, transaction.atomic():
                    for _ in range(chance.randint(1, 6)):
                        write_groups(chance)
                after = dict(Group.objects.values_list("pk", "name"))
                expected = Counter(
                    [("group.created", pk, after[pk]) for pk in after.keys() - before.keys()]
                    + [("group.deleted", pk, before[pk]) for pk in before.keys() - after.keys()]
                    + [
                        ("group.updated", pk, after[pk])
                        for pk in after.keys() & before.keys()
                        if after[pk] != before[pk]
                    ]
                )
                told = Counter(
                    (type_, data["id"], data["name"]) for type_, data in captured.types_and_data
                )
                # What a deleted row was called is its last name within the transaction.
                self.assertEqual(without_names(told), without_names(expected), f"seed {seed}")
                self.assertEqual(of_living(told), of_living(expected), f"seed {seed}")

    def test_a_saved_expression_is_told_by_its_value(self) -> None:
        ticket = Ticket.objects.create(team=self.team, title="leak")
        ticket.title = Upper("title")
        with captured_events() as captured:
            ticket.save()
        if django.VERSION >= (6, 0):
            self.assertEqual(ticket.title, "LEAK")
        self.assertEqual(captured.types_and_data[-1][1]["title"], "LEAK")

    def test_a_user_is_no_owner(self) -> None:
        user = User.objects.create_user(f"user {uuid.uuid4().hex}")
        with self.assertRaisesRegex(EventDataInvalidError, "WEBHOOKS_OWNER_MODEL is teams.Team"):
            service.trigger_event("ticket.created", user, {"id": 1, "title": "Leak"})
        with self.assertRaisesRegex(ValueError, "The owner is a auth.User"):
            service.create_webhook(user, name="a", url=self.receiver.url, events=["*"])

    def test_a_deleted_team_takes_its_webhooks_along(self) -> None:
        service.trigger_event("ticket.created", self.team, {"id": 1, "title": "Leak"})
        key = self.team.pk
        self.team.delete()
        run_worker()

        webhook = Webhook.objects.get(pk=self.webhook.pk)
        self.assertIsNone(webhook.owner_id)
        self.assertIsNotNone(webhook.deleted_at)
        self.assertEqual(self.receiver.requests, [])
        self.assertEqual(
            [one.status for one in Delivery.objects.filter(webhook=webhook)], ["CANCELLED"]
        )
        self.assertEqual(Event.objects.for_owner(key).count(), 1)

    def test_the_audit_log_names_users_of_another_kind_of_key(self) -> None:
        user = User.objects.create_user(f"user {uuid.uuid4().hex}")
        entry = audit_log.record("webhook.disable", self.webhook, actor=user)
        self.assertEqual(AuditEntry.objects.get(pk=entry.pk).actor_id, user.pk)

    def test_commands_find_a_team_by_its_name_and_its_key(self) -> None:
        Ticket.objects.create(team=self.team, title="Leak")
        run_worker()
        for text in (self.team.name, str(self.team.pk)):
            shown = StringIO()
            with redirect_stdout(shown):
                call_command("redeliver", owner=text, status=["SUCCESS"], dry_run=True)
                call_command("stats", owner=text)
            self.assertIn("1", shown.getvalue())

    def test_figures_of_an_hour_name_the_team(self) -> None:
        Ticket.objects.create(team=self.team, title="Leak")
        run_worker()
        rollups._roll(int(time.time() // 3600))
        rows = HourFigures.objects.filter(webhook_id=self.webhook.pk)
        self.assertEqual([row.owner_id for row in rows], [self.team.pk])

    def test_a_redelivery_of_a_team_is_sent(self) -> None:
        Ticket.objects.create(team=self.team, title="Leak")
        run_worker()
        service.redeliver(service.Scope(owner_id=self.team.pk, statuses=("SUCCESS",)))
        run_worker()
        self.assertEqual(len(self.receiver.requests), 2)
