"""What the trial talks to: the units of systemd, the site behind its proxy, and Prometheus."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import IO, Any

import requests

from config.services import BASE_DIR
from tests.hosts.lab import NETWORK, Host

DEPLOY = BASE_DIR / "deploy"
SITE = "webhooks.example.com"
PROMETHEUS = f"http://{NETWORK}.11:9090"


def start_unit(host: Host, name: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start what a unit of systemd starts, in its environment."""
    unit = (DEPLOY / "systemd" / name).read_text()

    def values(key: str) -> list[str]:
        return re.findall(rf"^{key}=-?(.*)$", unit, re.MULTILINE)

    files = [Path(name) for name in values("EnvironmentFile")]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    pairs = (line.split("=", 1) for line in [*values("Environment"), *lines])
    variables = {"PATH": os.environ["PATH"]} | dict(pairs)
    command = [
        re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], word)
        for word in shlex.split(values("ExecStart")[0])
    ]
    return subprocess.Popen(
        [*host.prefix, "--", *command],
        cwd=values("WorkingDirectory")[0],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )


class Site:
    """The site, by its name and through TLS."""

    def __init__(self, bundle: Path) -> None:
        self._bundle = str(bundle)
        self.token = ""
        """Of the API; empty for an account's password."""

    def get(self, path: str) -> requests.Response:
        return requests.get(f"https://{SITE}{path}", verify=self._bundle, timeout=10)

    def post(
        self, path: str, body: dict[str, Any], account: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        answer = requests.post(
            f"https://{SITE}/api/v1{path}",
            json=body,
            auth=account,
            headers={} if account else {"Authorization": f"Bearer {self.token}"},
            verify=self._bundle,
            timeout=10,
        )
        assert answer.ok, f"{path}: {answer.status_code} {answer.text}"
        document: dict[str, Any] = answer.json()
        return document

    def trigger(self, name: str) -> None:
        data = {
            "id": name, "subscriptionId": None, "amount": 2900, "currency": "EUR",
            "reason": "card_declined", "failedAt": "2026-11-23T10:30:00.123Z",
        }  # fmt: skip
        self.post("/events", {"type": "payment.failed", "data": data})

    def can_trigger(self, name: str) -> bool:
        try:
            self.trigger(name)
        except (AssertionError, requests.RequestException):
            return False
        return True


class Prometheus:
    """What it knows."""

    def _ask(self, path: str, **parameters: str) -> Any:
        try:
            answer = requests.get(f"{PROMETHEUS}/api/v1/{path}", params=parameters, timeout=5)
        except requests.ConnectionError:
            return {"result": [], "alerts": []}
        return answer.json()["data"]

    def figures(self, expression: str) -> bool:
        return bool(self._ask("query", query=expression)["result"])

    def firing(self) -> set[str]:
        alerts = self._ask("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}
