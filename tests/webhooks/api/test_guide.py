"""docs/api.md: every command in it works, in its order, against a running server."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from projects.models import User
from webhooks.api.problems import TITLES
from webhooks.dispatch.engine import run_until_idle
from webhooks.workbench.receiver import HttpReceiver

GUIDE = (Path(django_settings.BASE_DIR) / "docs" / "api.md").read_text()
COMMAND = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
KEEP = re.compile(r"`([A-Z]+)`\s+is\s+`([a-zA-Z0-9.]+)`")


def steps() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each command with what its reader keeps from the answer."""
    parts = COMMAND.split(GUIDE)[1:]
    return [
        (command, KEEP.findall(text)) for command, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def pick(answer: Any, path: str) -> str:
    for name in path.split("."):
        answer = answer[int(name)] if name.isdigit() else answer[name]
    return str(answer)


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_newcomer_gets_from_nothing_to_a_delivery(live_server: Any, user: User) -> None:
    user.set_password("password")
    user.save(update_fields=["password"])
    answers = []
    with HttpReceiver() as receiver:
        known = {"SERVER": live_server.url, "RECEIVER": receiver.url, "ACCOUNT": "ada:password"}
        for command, kept in steps():
            answers.append(run(command, known))
            known |= {name: pick(answers[-1], path) for name, path in kept}
            # What a worker does meanwhile.
            receiver.secrets = [known[name] for name in ("SECRET",) if name in known]
            run_until_idle()

        assert len(answers) == 21
        assert [one.event_type for one in receiver.requests] == ["payment.failed"] * 3
        assert all(one.standard_ok and one.hex_ok for one in receiver.requests)
    assert answers[2]["succeeded"] is True
    assert answers[4]["results"][0]["status"] == "SUCCESS"
    assert answers[5]["attempts"][0]["responseCode"] == 200
    assert [one["matches"] for one in answers[6]["explanation"]] == [True]
    assert answers[8] == {"matchedCount": 0}
    assert answers[9]["succeededCount"] == 1
    assert answers[10]["secret"] != known["SECRET"]
    assert answers[11]["byStatus"]["SUCCESS"] == 1
    assert answers[12]["filter"]["amount"] == {"gte": 10000}
    assert (answers[13]["considered"], answers[13]["matched"]) == (1, 0)
    assert answers[13]["leftOut"][0]["reason"] == "It is filtered: amount is 2900."
    assert answers[14]["form"] == "thin"
    assert answers[15]["version"] == "2026-01-01"
    assert json.loads(answers[16]["versions"][0]["body"])["amount"] == 2900
    assert answers[17]["debounce"] == 30
    assert (answers[18]["order"], answers[18]["debounce"]) == ("object", None)
    assert answers[19]["object"] == "subscription:sub_8Kq2"
    assert answers[20]["batchEvents"] == 100


def run(command: str, variables: dict[str, str]) -> Any:
    finished = subprocess.run(
        ["bash", "-euc", command],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, command + finished.stdout + finished.stderr
    return json.loads(finished.stdout)


def test_all_problems_are_listed() -> None:
    assert all(f"`{code.replace('_', '-')}`" in GUIDE for code in TITLES)
