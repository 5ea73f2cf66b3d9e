"""`/metrics`, and the alerts and the dashboard that read it; Prometheus itself where it is installed."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from django.test import Client
from django.test.utils import override_settings

from projects.models import Project, User
from tests.deploy.test_files import DEPLOY, need
from webhooks.dispatch.engine import run_until_idle
from webhooks.doors import metrics
from webhooks.models import Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

TOKEN = "scrape-me"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(metrics, "_kept", (float("-inf"), b""))
    with override_settings(METRICS_TOKEN=TOKEN):
        yield


def scrape(client: Client, token: str = TOKEN) -> str:
    response = client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 200
    return response.content.decode()


def figures(page: str) -> dict[str, float]:
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.mark.django_db(transaction=True)
def test_figures_are_those_of_the_deliveries(
    client: Client, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    with HttpReceiver(behaviour=Behaviour(status=500)) as bad, HttpReceiver() as good:
        make_webhook(url=bad.url)
        make_webhook(url=good.url)
        Project.objects.create(owner=user, name="P")
        before = figures(scrape(client))
        run_until_idle()
    metrics._kept = (float("-inf"), b"")
    after = figures(scrape(client))

    assert (before["webhooks_due"], after["webhooks_due"]) == (2, 0)
    assert after["webhooks_retrying"] == after["webhooks_scheduled"] == 1
    assert after['webhooks_recent_deliveries{status="succeeded"}'] == 1
    assert sum(value for name, value in after.items() if "recent_failures" in name) == 1
    assert after["webhooks_recent_attempts"] == 2
    assert after['webhooks_registered{state="closed"}'] == 2


@pytest.mark.django_db
@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", "Bearer é"])
def test_without_the_token_nothing_is_told(client: Client, header: str) -> None:
    response = client.get("/metrics", headers={"Authorization": header})

    assert response.status_code == 401
    assert response.content == b""


@pytest.mark.django_db
def test_without_a_token_of_its_own_it_is_off(client: Client) -> None:
    with override_settings(METRICS_TOKEN=""):
        assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 404


@pytest.mark.django_db
def test_scrapes_within_seconds_reach_postgres_once(
    client: Client, django_assert_num_queries: Callable[..., object]
) -> None:
    scrape(client)

    with django_assert_num_queries(0):  # type: ignore[attr-defined]
        scrape(client)


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bwebhooks_[a-z_]+", text))


@pytest.mark.django_db
def test_alerts_and_dashboard_read_only_figures_that_exist(client: Client) -> None:
    page = scrape(client)
    known = set(re.findall(r"# TYPE (\w+)", page))
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    read = [rule["expr"] for rule in rules]
    read += [target["expr"] for panel in panels for target in panel["targets"]]

    assert len(known) >= 15
    assert names_in(" ".join(read)) <= known


def test_prometheus_accepts_the_alerts_and_its_file(tmp_path: Path) -> None:
    promtool = need("promtool")
    (tmp_path / "alerts.yml").write_text((DEPLOY / "prometheus" / "alerts.yml").read_text())
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    (tmp_path / "token").write_text(TOKEN)
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace("/etc/prometheus/webhooks-token", str(tmp_path / "token")))

    for arguments in (["check", "rules", tmp_path / "alerts.yml"], ["check", "config", file]):
        ran = subprocess.run([promtool, *map(str, arguments)], capture_output=True, check=False)
        assert ran.returncode == 0, ran.stderr + ran.stdout


@pytest.mark.django_db
def test_prometheus_accepts_the_page(client: Client) -> None:
    ran = subprocess.run(
        [need("promtool"), "check", "metrics"],
        input=scrape(client).encode(),
        capture_output=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr + ran.stdout


UNIT_TEST = """
rule_files: [alerts.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: webhooks_workers, values: "2x8 0x40"}
      - {series: webhooks_due, values: "0x60"}
      - {series: webhooks_oldest_due_seconds, values: "0+10x60"}
      - {series: webhooks_paused, values: "0x60"}
    alert_rule_test:
      - {eval_time: 1m, alertname: WebhooksNoWorker, exp_alerts: []}
      - eval_time: 5m
        alertname: WebhooksNoWorker
        exp_alerts:
          - exp_labels: {severity: page}
            exp_annotations:
              summary: No worker has sent a heartbeat; nothing is delivered.
              command: manage.py doctor
      - eval_time: 5m
        alertname: WebhooksLate
        exp_alerts:
          - exp_labels: {severity: page}
            exp_annotations:
              summary: The oldest due delivery has waited for 3m 20s.
              command: manage.py stats
"""


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    promtool = need("promtool")
    (tmp_path / "alerts.yml").write_text((DEPLOY / "prometheus" / "alerts.yml").read_text())
    (tmp_path / "unit.yml").write_text(UNIT_TEST)

    ran = subprocess.run(
        [promtool, "test", "rules", "unit.yml"], cwd=tmp_path, capture_output=True, check=False
    )

    assert ran.returncode == 0, ran.stderr + ran.stdout


# With the labels that a scrape adds: an expression that drops them on one side matches nothing.
FAULTS = """
rule_files: [alerts.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: 'up{job="webhooks",instance="a"}', values: "0x800"}
      - {series: 'webhooks_workers{job="webhooks",instance="a"}', values: "0x800"}
      - {series: 'webhooks_workers_silent{job="webhooks",instance="a"}', values: "1x800"}
      - {series: 'webhooks_due{job="webhooks",instance="a"}', values: "9x800"}
      - {series: 'webhooks_oldest_due_seconds{job="webhooks",instance="a"}', values: "61x800"}
      - {series: 'webhooks_paused{job="webhooks",instance="a"}', values: "0x100 1x700"}
      - {series: 'webhooks_recent_attempts{job="webhooks",instance="a"}', values: "101x800"}
      - {series: 'webhooks_recent_failures{job="webhooks",instance="a",kind="dns"}', values: "30x800"}
      - {series: 'webhooks_recent_failures{job="webhooks",instance="a",kind="tls"}', values: "30x800"}
      - {series: 'webhooks_horizon_held_seconds{job="webhooks",instance="a"}', values: "61x800"}
      - {series: 'webhooks_chore_failures{job="webhooks",instance="a",chore="c"}', values: "3x800"}
    promql_expr_test:
      - {expr: 'sum by (alertname) (ALERTS{alertstate="firing"})', eval_time: 20m, exp_samples: [%s]}
      - {expr: 'count(ALERTS{alertname="WebhooksPaused",alertstate="firing"})', eval_time: 90m,
         exp_samples: [{labels: "{}", value: 1}]}
"""


def test_every_alert_fires_on_its_fault(tmp_path: Path) -> None:
    promtool = need("promtool")
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(text)
    names = {rule["alert"] for rule in yaml.safe_load(text)["groups"][0]["rules"]}
    fired = [
        f"{{labels: '{{alertname=\"{name}\"}}', value: 1}}" for name in names - {"WebhooksPaused"}
    ]
    (tmp_path / "unit.yml").write_text(FAULTS % ", ".join(fired))

    ran = subprocess.run(
        [promtool, "test", "rules", "unit.yml"], cwd=tmp_path, capture_output=True, check=False
    )

    assert ran.returncode == 0, ran.stderr + ran.stdout
