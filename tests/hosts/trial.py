"""docs/deployment.md, followed on hosts of its own: `python -m tests.hosts.trial`.

Runs the commands of the page and the files of deploy/ as they are: Postgres with a synchronous standby,
Valkey, two hosts of the site with PgBouncer and a worker, HAProxy with TLS, Prometheus with the alerts.
Systemd does not run here: of its units the command lines and the environment are taken. Ends with status 1
and the reason where the page fails.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import requests

from config.embedded import valkey_binary
from config.services import BASE_DIR
from tests.hosts import lab
from tests.hosts.lab import ISOLATED, NETWORK, end, find, isolate
from tests.hosts.parts import DEPLOY, SITE, Prometheus, Site, start_unit
from tests.webhooks.certificates import Authority
from webhooks.workbench.receiver import Behaviour, HttpReceiver

PAGE = BASE_DIR / "docs" / "deployment.md"
ETC = Path("/etc/remotedevai")
SRV = Path("/srv/remotedevai")
RECEIVER_PORT = 8443
PASSWORD = "PASSWORD"
OPERATOR = ("ada", "correct horse battery")
MINUTES = 3


def main() -> None:
    if ISOLATED not in os.environ:
        if reason := missing():
            sys.exit(f"Not run: {reason}")
        isolate("tests.hosts.trial", sys.argv[1:])
    namespaces = lab.Lab()
    _own_folders()
    Trial(namespaces).run()


def missing() -> str | None:
    """Say why the trial cannot run here; None if it can."""
    if absent := [name for name in ("haproxy", "prometheus") if find(name) is None]:
        return f"{', '.join(absent)} is missing (Debian: apt-get install {' '.join(absent)})."
    return lab.missing()


def _own_folders() -> None:
    """Let /etc and /srv be the run's own; the lab has seen to /run."""
    for part in ("upper", "work"):
        Path(f"/run/etc-{part}").mkdir()
    layers = "lowerdir=/etc,upperdir=/run/etc-upper,workdir=/run/etc-work"
    _mount("-t", "overlay", "-o", layers, "overlay", "/etc")
    _mount("-t", "tmpfs", "tmpfs", "/srv")
    SRV.mkdir()
    _mount("--bind", str(BASE_DIR), str(SRV))
    ETC.mkdir()


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def blocks() -> list[str]:
    """Return the commands and files of the page's steps, one text for each block."""
    steps = PAGE.read_text().partition("## Step by step")[2].partition("\n## ")[0]
    return [
        re.sub(r"^   ", "", block, flags=re.MULTILINE).strip()
        for block in re.findall(r"```\n(.*?)```", steps, re.DOTALL)
    ]


class Trial:
    """The installation, step by step."""

    def __init__(self, namespaces: lab.Lab) -> None:
        self.logs = BASE_DIR / "var" / "hosts"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.log = (self.logs / "trial.log").open("wb")
        self.folder = Path(tempfile.mkdtemp(prefix="trial-", dir="/run"))
        self.folder.chmod(0o711)
        self.apps = [namespaces.add("app1", 11), namespaces.add("app2", 12)]
        self.databases = [namespaces.add("db1", 21), namespaces.add("db2", 22)]
        self.proxy = namespaces.add("proxy", 31)
        self.authority = Authority.make(self.folder / "certificates")
        self.site = Site(self.authority.bundle)
        self.prometheus = Prometheus()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.poolers: list[subprocess.Popen[bytes]] = []
        self.environment: dict[str, str] = {}
        (
            self.secrets, self.file, self.database, self.pooler, self.static, _, self.look,
        ) = blocks()  # fmt: skip

    def run(self) -> None:
        tls = self.authority.context(f"{NETWORK}.1")
        with HttpReceiver(host=f"{NETWORK}.1", port=RECEIVER_PORT, tls=tls) as receiver:
            for step in (
                self.run_servers, self.make_environment, self.make_tables, self.run_poolers,
                self.start_site_and_workers, self.run_proxy, self.look_around,
            ):  # fmt: skip
                self._say(step)
            self.deliver(receiver)
            self.watch(receiver)
            self.fail_over(receiver)
        print("The page leads to deliveries, a dashboard, an alert and a failover.")

    # The servers that the page takes for granted.

    def run_servers(self) -> None:
        """Postgres with a synchronous standby, and Valkey."""
        # Its module reads the settings of Django.
        os.environ |= {"DEBUG": "1", "DATABASE_URL": "postgres:///none"}
        import django

        os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
        django.setup()
        from tests.hosts.postgres import USER, Pair

        for name in ("DEBUG", "DATABASE_URL", "DJANGO_SETTINGS_MODULE"):
            del os.environ[name]
        self.postgres = Pair(self.databases, self.folder, self.logs)
        self.postgres.primary.login = "scram-sha-256"
        self.postgres.start(is_synchronous=True)
        with self.postgres.primary.connect("postgres") as maintenance:
            maintenance.execute("CREATE DATABASE webhooks")
        self.owner_url = f"postgres://{USER}@{self.databases[0].address}/webhooks"
        valkey = [str(valkey_binary()), "--protected-mode", "no", "--save", ""]
        self.databases[0].spawn(*valkey, log=self.log)

    # The page.

    def make_environment(self) -> None:
        """Steps 1 and 2."""
        made = dict(line.split("=", 1) for line in self._shell(self.secrets).splitlines())
        made["METRICS_TOKEN"] = "scrape-me"
        lines = [line.split("=", 1) for line in self.file.splitlines()]
        # The receiver of the trial is in a private network, with a certificate of its own.
        more = {
            "WEBHOOKS_ALLOWED_NETWORKS": f"{NETWORK}.0/24",
            "WEBHOOKS_CA_BUNDLE": str(self.authority.bundle),
        }
        self.environment = {
            name: made[name] if value == "…" else value for name, value in lines
        } | more
        text = "".join(f"{name}={value}\n" for name, value in self.environment.items())
        (ETC / "environment").write_text(text)

    def make_tables(self) -> None:
        """Step 3."""
        self._shell(self.database, OWNER_URL=self.owner_url)

    def run_poolers(self) -> None:
        """Step 4."""
        self._shell(self.pooler)
        # As the user that Debian's package gives its files to.
        owner = Path("/etc/pgbouncer/pgbouncer.ini").stat()
        user = [f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
        for host in self.apps:
            command = [str(find("pgbouncer")), "/etc/pgbouncer/pgbouncer.ini"]
            self.poolers.append(host.spawn("setpriv", *user, *command, log=self.log))

    def start_site_and_workers(self) -> None:
        """Steps 5 and 6, by the units' own lines."""
        self._shell(self.static)
        for host in self.apps:
            start_unit(host, "remotedevai-web.service", self.log)
            self.workers.append(start_unit(host, "remotedevai-worker@.service", self.log))

    def run_proxy(self) -> None:
        """Step 7: HAProxy before both hosts."""
        self.authority.context(SITE)
        etc = Path("/etc/haproxy")
        etc.mkdir(exist_ok=True)
        shutil.copy(self.authority.folder / f"{SITE}.pem", etc)
        shutil.copy(DEPLOY / "haproxy.cfg", etc)
        with Path("/etc/hosts").open("a") as names:
            names.write(f"{self.proxy.address} {SITE}\n")
        program = find("haproxy")
        assert program is not None
        self.proxy.spawn(program, "-f", "/etc/haproxy/haproxy.cfg", log=self.log)
        self._wait(
            lambda: self.site.get("/healthz").status_code == 200, "the site behind the proxy"
        )
        assert self.site.get("/readyz").status_code == 403, "Probes are answered from outside."
        page = self.site.get("/admin/login/")
        assert page.status_code == 200, page.status_code
        style = re.search(r'href="(/static/[^"]+\.css)"', page.text)
        assert style, "The login page has no style sheet."
        assert self.site.get(style[1]).status_code == 200, "Static files are missing."

    def look_around(self) -> None:
        """Step 8."""
        name, password = OPERATOR
        create, doctor = self.look.splitlines()
        account = {
            "DJANGO_SUPERUSER_USERNAME": name,
            "DJANGO_SUPERUSER_PASSWORD": password,
            "DJANGO_SUPERUSER_EMAIL": f"{name}@example.com",
        }
        self._shell(f"{create} --no-input", **account)
        self._wait(
            lambda: "workers are alive" in self._shell(f"{doctor} --fail-level never"), "workers"
        )
        found = json.loads(self._shell(f"{doctor} --format json"))
        for finding in found["findings"]:
            if finding["level"] != "ok":
                print(f"doctor: {finding['level']} {finding['check']}: {finding['message']}")

    # What an operator wants to see.

    def deliver(self, receiver: HttpReceiver) -> None:
        """A verified delivery, by the HTTP API through TLS."""
        answer = self.site.post(
            "/tokens", {"name": "t", "scopes": ["read", "write", "trigger"]}, OPERATOR
        )
        self.site.token = answer["token"]
        url = f"https://{NETWORK}.1:{RECEIVER_PORT}/"
        webhook = self.site.post("/webhooks", {"name": "w", "url": url, "events": ["payment.*"]})
        receiver.secrets = [webhook["secret"]]
        self.site.trigger("first")
        (received,) = receiver.wait_for(1)
        assert (received.standard_ok, received.hex_ok) == (True, True), (
            "The signature does not fit."
        )
        print(f"Delivered with a signature that fits: {received.event_id}", flush=True)

    def watch(self, receiver: HttpReceiver) -> None:
        """Prometheus reads the figures, each panel shows some, and an alert fires."""
        receiver.script(Behaviour(status=500))
        self.site.trigger("to fail")
        receiver.wait_for(2)
        etc = Path("/etc/prometheus")
        etc.mkdir(exist_ok=True)
        for file in (DEPLOY / "prometheus").iterdir():
            shutil.copy(file, etc)
        (etc / "webhooks-token").write_text(self.environment["METRICS_TOKEN"])
        program = find("prometheus")
        assert program is not None
        self.apps[0].spawn(
            program, "--config.file=/etc/prometheus/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/prometheus", "--web.listen-address=:9090",
            log=self.log,
        )  # fmt: skip
        panels = [
            target["expr"]
            for panel in json.loads((DEPLOY / "grafana.json").read_text())["panels"]
            for target in panel["targets"]
        ]
        self._wait(lambda: all(map(self.prometheus.figures, panels)), f"figures in all of {panels}")
        print(f"All {len(panels)} queries of the dashboard have figures", flush=True)
        for worker in self.workers:
            end(worker, signal.SIGTERM)
        began_at = time.monotonic()
        self._wait(
            lambda: "WebhooksNoWorker" in self.prometheus.firing(), "the alert that no worker runs"
        )
        seconds = time.monotonic() - began_at
        print(f"Without workers WebhooksNoWorker fires after {seconds:.0f} s", flush=True)
        self.workers = [
            start_unit(host, "remotedevai-worker@.service", self.log) for host in self.apps
        ]

    def fail_over(self, receiver: HttpReceiver) -> None:
        """The page's section on failing over."""
        self.postgres.primary.stop(signal.SIGQUIT)
        began_at = time.monotonic()
        self.postgres.promote()
        file = Path("/etc/pgbouncer/pgbouncer.ini")
        old, new = (f"host={host.address}" for host in self.databases)
        file.write_text(file.read_text().replace(old, new))
        for pooler in self.poolers:
            pooler.send_signal(signal.SIGHUP)
        name = "after the failover"
        self._wait(lambda: self.site.can_trigger(name), f"an event {name}")
        self._wait(
            lambda: any(name.encode() in one.body for one in receiver.requests), f"a request {name}"
        )
        print(f"Delivered {time.monotonic() - began_at:.0f} s {name}", flush=True)

    # How.

    def _say(self, step: Callable[[], None]) -> None:
        began_at = time.monotonic()
        step()
        print(f"{step.__doc__} {time.monotonic() - began_at:.0f} s", flush=True)

    def _shell(self, commands: str, **more: str) -> str:
        """Run commands of the page on the first host of the site, and return what they print."""
        programs = [str(SRV / ".venv" / "bin"), str(self.postgres.binaries), os.environ["PATH"]]
        environment = {"PATH": ":".join(programs), "HOME": "/root", **self.environment, **more}
        ran = subprocess.run(
            [*self.apps[0].prefix, "--", "sh", "-ec", commands],
            cwd=SRV, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode:
            sys.exit(f"The page fails at:\n{commands}\n{ran.stdout}{ran.stderr}")
        return ran.stdout

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + MINUTES * 60
        while True:
            try:
                if condition():
                    return
            except requests.ConnectionError:
                pass
            if time.monotonic() > deadline:
                sys.exit(f"Waited {MINUTES} minutes for {what}; see var/hosts/trial.log.")
            time.sleep(0.5)


if __name__ == "__main__":
    main()
