"""The files of deploy/, read by the programs that they are for, where those are installed."""

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from django.core.management import call_command, get_commands
from django.db import connection

from config.serve import STATIC
from config.services import BASE_DIR
from config.urls import OPENAPI_FILE
from projects.models import Project, User
from tests.workers import answers, free_port, killed_at_end, wait_until
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import Attempt, Delivery, Webhook
from webhooks.repair import partitions
from webhooks.service import get_deliveries
from webhooks.workbench.receiver import HttpReceiver

DEPLOY = BASE_DIR / "deploy"


def need(program: str) -> str:
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/bin:/sbin")
    if path is None:
        pytest.skip(f"{program}: not installed here")
    return path


def run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("unit", ["remotedevai-web.service", "remotedevai-worker@.service"])
def test_systemd_finds_nothing_but_the_missing_program(unit: str) -> None:
    text = run(need("systemd-analyze"), "verify", str(DEPLOY / "systemd" / unit))

    complaints = [line for line in text.splitlines() if "is not executable" not in line]
    assert complaints == []


def certificate(folder: Path) -> Path:
    path = folder / "both.pem"
    subject = ["-subj", "/CN=webhooks.example.com"]
    made = [
        "-newkey",
        "rsa:2048",
        "-keyout",
        str(folder / "key.pem"),
        "-out",
        str(folder / "c.pem"),
    ]
    run(need("openssl"), "req", "-x509", "-nodes", "-days", "1", *subject, *made)
    path.write_text((folder / "c.pem").read_text() + (folder / "key.pem").read_text())
    return path


@pytest.mark.parametrize("name", ["nginx.conf", "nginx-cells.conf"])
def test_nginx_accepts_its_files(tmp_path: Path, name: str) -> None:
    nginx, pem = need("nginx"), certificate(tmp_path)
    site = (DEPLOY / name).read_text()
    routes = tmp_path / "routes"
    routes.write_text('"05" a;\n"c8" b;\n')
    site = site.replace("/etc/nginx/cell-routes.map", str(routes))
    site = site.replace("/etc/ssl/webhooks.example.com.pem", str(pem))
    site = site.replace("/etc/ssl/private/webhooks.example.com.key", str(pem))
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{site}\n}}\n")

    text = run(nginx, "-t", "-p", str(tmp_path), "-c", str(whole))

    assert "test is successful" in text, text


class Echo(BaseHTTPRequestHandler):
    """Answers with the name of its cell."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.cell.encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def router(tmp_path: Path) -> Iterator[str]:
    """The URL of nginx-cells.conf without TLS, before a server for each cell."""
    nginx, port = need("nginx"), free_port()
    site = (DEPLOY / "nginx-cells.conf").read_text()
    routes = tmp_path / "routes"
    routes.write_text('"05" a;\n"c8" b;\n')
    site = site.replace("/etc/nginx/cell-routes.map", str(routes))
    site = re.sub(r"^ *(ssl_certificate.*|access_log.*)$", "", site, flags=re.M)
    site = site.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    site = site.replace("listen 80;", f"listen 127.0.0.1:{free_port()};")
    servers = []
    for cell, address in (("a", "10.0.1.10:8000"), ("b", "10.0.2.10:8000")):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
        server.cell = cell  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert address in site
        site = site.replace(address, f"127.0.0.1:{server.server_port}")
        servers.append(server)
    paths = " ".join(
        f"{name}_temp_path {tmp_path};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = tmp_path / "nginx.conf"
    whole.write_text(
        f"daemon off;\nmaster_process off;\npid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off; {paths}\n{site}\n}}\n"
    )
    with (
        subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(whole)]) as process,
        killed_at_end(process),
    ):
        wait_until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}"
    for server in servers:
        server.shutdown()
        server.server_close()


def test_nginx_finds_the_cell_of_a_request(router: str) -> None:
    def cell_of(path: str, token: str = "") -> str:
        headers = {"Authorization": token} if token else {}
        return requests.get(router + path, headers=headers, timeout=10).text

    assert cell_of("/api/v1/webhooks") == "a"
    assert cell_of("/api/v1/webhooks", "Bearer rdai_s05-x") == "a"
    assert cell_of("/api/v1/webhooks", "Bearer rdai_sc8-x") == "b"
    assert cell_of("/api/v1/webhooks", "bearer  rdai_sC8-x") == "b"
    assert cell_of("/api/v1/webhooks", "Bearer rdai_c8c8") == "a"
    for path in ("/portal/open/sc8-x/", "/portal/s/sc8-x/inbox/", "/portal/in/sc8-x"):
        assert cell_of(path) == "b"
    assert requests.get(f"{router}/readyz", timeout=10).status_code == 403


def test_haproxy_accepts_its_file(tmp_path: Path) -> None:
    haproxy, pem = need("haproxy"), certificate(tmp_path)
    text = (DEPLOY / "haproxy.cfg").read_text()
    file = tmp_path / "haproxy.cfg"
    file.write_text(text.replace("/etc/haproxy/webhooks.example.com.pem", str(pem)))

    ran = subprocess.run([haproxy, "-c", "-f", str(file)], capture_output=True, check=False)

    assert ran.returncode == 0, ran.stderr


def manifests() -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())


def containers() -> Iterator[dict[str, Any]]:
    for manifest in manifests():
        if "template" in manifest["spec"]:
            yield from manifest["spec"]["template"]["spec"]["containers"]


def commands() -> Iterator[list[str]]:
    for container in containers():
        yield container.get("command", [])
        yield container.get("livenessProbe", {}).get("exec", {}).get("command", [])
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        yield service.get("command", [])
        yield service.get("healthcheck", {}).get("test", [])[1:]


def test_every_named_command_exists() -> None:
    named = {line[2] for line in commands() if line[:2] == ["python", "manage.py"]}

    assert named == {"migrate", "rqworker", "webhooks_alive"}
    assert named <= set(get_commands())


def test_image_copies_what_exists_and_serves_as_the_code_does() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY") and "--from" not in line]
    unit = (DEPLOY / "systemd" / "remotedevai-web.service").read_text()

    assert all((BASE_DIR / name).exists() for name in copied)
    for option in ("--respawn-failed-workers", "--interface", "--static-path-mount"):
        assert any(option in line for line in lines)
        assert option in unit


def is_left_out(path: Path) -> bool:
    """Say whether the image lacks a file: of the lines that match it, the last one counts."""
    found = False
    for line in (BASE_DIR / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        parts = [path, *path.parents]
        if any(part.match(pattern) for part in parts if part.parent == Path() or "/" in pattern):
            found = line == pattern
    return found


def test_image_has_what_the_site_reads() -> None:
    files = [OPENAPI_FILE, BASE_DIR / "manage.py", STATIC / "x.css", *requirements()]

    assert [path for path in files if is_left_out(path.relative_to(BASE_DIR))] == []
    assert is_left_out(Path("var/secret.key"))
    assert is_left_out(Path("tests/conftest.py"))


def requirements() -> list[Path]:
    """The lists that docs/deployment.md and docs/cells.md tell to install, for the image as well."""
    copied = re.search(r"^COPY (requirements.+) \.$", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert copied
    return [BASE_DIR / name for name in copied[1].split()]


def test_image_can_have_traces_and_cells() -> None:
    assert {path.name for path in requirements()} == {
        "requirements.txt", "requirements-tracing.txt", "requirements-cells.txt",
    }  # fmt: skip


@pytest.fixture
def app_role() -> Iterator[str]:
    """A role as grants.sql leaves it, which Django's connections then log in as."""
    role, user = "webhooks_app", connection.settings_dict["USER"]
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN")
        cursor.execute((DEPLOY / "grants.sql").read_text().replace(":role", role))
    connection.close()
    connection.settings_dict["USER"] = role
    try:
        yield role
    finally:
        connection.close()
        connection.settings_dict["USER"] = user
        with connection.cursor() as cursor:
            cursor.execute(f"DROP OWNED BY {role}")
            cursor.execute(f"DROP ROLE {role}")


def _drop_and_make_partitions() -> None:
    partitions.make_ahead()
    before = partitions.partitions()
    # All of them are empty.
    partitions.exchange_expiring(before[-1].end_id)
    assert partitions.partitions() == []
    partitions.make_ahead()
    assert len(partitions.partitions()) == partitions.AHEAD_DAYS + 1


@pytest.mark.django_db(transaction=True)
def test_role_of_the_grants_delivers_and_changes_no_schema(
    app_role: str, make_webhook: Callable[..., Webhook], user: User
) -> None:
    with HttpReceiver() as receiver:
        webhook = make_webhook(url=receiver.url)
        Project.objects.create(owner=user, name="P")
        run_until_idle()

    assert [one.status for one in get_deliveries(webhook, user)] == ["SUCCESS"]
    assert Attempt.objects.count() == 1
    call_command("purge", "--older-than", "0d", "--no-input", "--verbosity", "0")
    assert not Delivery.objects.exists()
    _drop_and_make_partitions()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, has_schema_privilege(current_user, 'public', 'CREATE')"
        )
        assert cursor.fetchone() == (app_role, False)
