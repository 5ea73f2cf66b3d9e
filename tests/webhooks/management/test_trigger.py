"""`manage.py trigger`: an event's deliveries and their responses."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from projects.models import User
from tests.webhooks.history import DELETED
from tests.webhooks.management.conftest import Run, hold_back
from tests.workers import running_worker, wait_for_heartbeats
from webhooks import catalog, service
from webhooks.models import Delivery, Event, Webhook
from webhooks.repair import integrity
from webhooks.workbench.receiver import Behaviour, HttpReceiver


def stored() -> Event:
    return Event.objects.exclude(type="user.created").get()


def test_sends_the_example_by_default(run: Run, user: User, webhook: Webhook) -> None:
    ran = run("trigger", "project.created", "--owner", "ada")

    event = stored()
    example = catalog.get_type("project.created").example
    assert json.loads(bytes(event.payload))["data"] == example
    assert (ran.code, ran.out) == (
        0,
        f"{event.public_id} project.created → 1 webhook\n  {webhook.public_id}  Orders  queued\n",
    )


def test_json_and_count(run: Run, user: User, webhook: Webhook) -> None:
    ran = run("trigger", "project.deleted", "--owner", "ada", "--count", 2, "--format", "json")

    events = json.loads(ran.out)["events"]
    assert len(events) == Delivery.objects.count() == 2
    delivery = Delivery.objects.get(event_id=events[0]["id"].removeprefix("evt_"))
    assert events[0]["deliveries"] == [
        {
            "id": delivery.public_id,
            "webhookId": webhook.public_id,
            "status": "PENDING",
            "responseCode": None,
            "durationMs": None,
            "error": "",
            "held": "",
        }
    ]


def test_the_object_is_named(run: Run, user: User) -> None:
    ran = run("trigger", "project.deleted", "--owner", "ada", "--object", "invoice:4711")
    refused = run("trigger", "project.deleted", "--owner", "ada", "--object", "x" * 101)

    assert (ran.code, stored().object_reference) == (0, "invoice:4711")
    assert refused.code == 1
    assert "object reference must be text of 0 to 100 characters" in refused.err


@pytest.mark.parametrize("form", ["json", "file", "stdin"])
def test_data_is_read(run: Run, user: User, tmp_path: Path, form: str) -> None:
    text = json.dumps(DELETED)
    (tmp_path / "data.json").write_text(text)
    data = {"json": text, "file": f"@{tmp_path / 'data.json'}", "stdin": "-"}[form]

    ran = run("trigger", "project.deleted", "--owner", "ada", "--data", data, stdin=text)

    assert ran.out == f"{stored().public_id} project.deleted → 0 webhooks\n"
    assert json.loads(bytes(stored().payload))["data"] == DELETED


def test_one_webhook_gets_it_alone_whatever_its_filter(
    run: Run, user: User, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    other = make_webhook(events=["session.*"])

    ran = run("trigger", "project.deleted", "--webhook", other.public_id)

    assert ran.code == 0
    assert Delivery.objects.get().webhook == other
    assert stored().owner_id == user.id
    assert list(integrity.find_faults()) == []


def test_list_and_example(run: Run, db: None) -> None:
    listed = run("trigger", "--list")
    example = run("trigger", "project.deleted", "--example")

    assert listed.out.splitlines()[0].split() == ["TYPE", "WHEN"]
    assert len(listed.out.splitlines()) == 1 + len(catalog.all_types())
    assert json.loads(example.out) == catalog.get_type("project.deleted").example
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ([], "Give an event type; --list shows all of them.", 2),
        (["project.deleted"], "Give the event's owner: --owner or --webhook.", 2),
        (
            ["project.gone", "--owner", "ada"],
            "There is no event type 'project.gone'. Event types: ",
            1,
        ),
        (["project.deleted", "--owner", "ada", "--data", "{}"], "does not fit project.deleted", 1),
        (["project.deleted", "--owner", "ada", "--data", "{"], "this is not JSON: ", 1),
        (["project.deleted", "--owner", "ada", "--data", "[]"], "must be a JSON object", 1),
        (["project.deleted", "--owner", "ada", "--data", "@/none"], "/none cannot be read: ", 1),
        (["project.deleted", "--webhook", "whk_1"], "not an id of the form whk_", 1),
    ],
)
def test_wrong_usage_stores_nothing(
    run: Run, user: User, arguments: list[str], message: str, code: int
) -> None:
    ran = run("trigger", *arguments)

    assert message in ran.err
    assert (ran.code, ran.out) == (code, "")
    assert not Event.objects.exclude(type="user.created").exists()


@pytest.mark.django_db(transaction=True)
def test_wait_shows_the_responses(
    run: Run, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    with HttpReceiver() as good, HttpReceiver(behaviour=Behaviour(status=503)) as bad:
        first = make_webhook(name="Good", url=good.url)
        second = make_webhook(name="Bad", url=bad.url)
        off = make_webhook(name="Off")
        service.disable(off)
        with running_worker():
            wait_for_heartbeats(1)
            ran = run("trigger", "session.ended", "--owner", "ada", "--wait")
            alone = run("trigger", "session.ended", "--webhook", first.public_id, "--wait")

    head, *lines = re.sub(r"\d+ ms", "? ms", ran.out).splitlines()
    assert head.endswith(" session.ended → 2 webhooks")
    assert sorted(re.sub(r"\d\d:\d\d:\d\d", "TIME", line) for line in lines) == sorted(
        [
            f"  {first.public_id}  Good  200  ? ms",
            f"  {second.public_id}  Bad  503  ? ms  RETRYING: The receiver answered 503.  "
            "(retry at TIME UTC)",
        ]
    )
    assert (ran.code, alone.code) == (3, 0)
    assert alone.err == ""


@pytest.mark.django_db(transaction=True)
def test_wait_does_not_wait_for_a_webhook_that_is_off(
    run: Run, user: User, webhook: Webhook
) -> None:
    service.disable(webhook)

    ran = run("trigger", "project.deleted", "--webhook", webhook.public_id, "--wait")

    assert ran.err == "No worker is running; start one: manage.py rqworker\n"
    assert ran.out.splitlines()[1] == f"  {webhook.public_id}  Orders  held: switched off"
    assert ran.code == 3


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("breaker", "it keeps failing; next try at 11:30:00 UTC"),
        ("asked for time", "it asked for time until 11:30:00 UTC"),
        ("pause", "all sending is paused"),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_wait_ignores_held_deliveries(
    run: Run, user: User, webhook: Webhook, reason: str, words: str
) -> None:
    hold_back(reason, datetime(2099, 1, 1, 11, 30, tzinfo=UTC))

    ran = run("trigger", "project.deleted", "--owner", "ada", "--wait")

    assert ran.out.splitlines()[1] == f"  {webhook.public_id}  Orders  held: {words}"
    assert ran.code == 3


def test_example_output_is_valid_data(run: Run, user: User, db: None) -> None:
    example = run("trigger", "project.deleted", "--example")

    ran = run("trigger", "project.deleted", "--owner", "ada", "--data", "-", stdin=example.out)

    assert ran.out == f"{stored().public_id} project.deleted → 0 webhooks\n"


def test_data_that_is_too_deep_is_refused_in_one_line(run: Run, user: User) -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000

    ran = run("trigger", "project.deleted", "--owner", "ada", "--data", "-", stdin=deep)

    assert (ran.code, ran.out) == (1, "")
    assert "Traceback" not in ran.err
