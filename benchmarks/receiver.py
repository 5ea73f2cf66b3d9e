"""A receiver at C speed that answers 200 to everything: nginx where it is installed, else Caddy."""

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import free_port, wait_until
from tests.webhooks.certificates import Authority

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

NGINX_CONF = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log /dev/null;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests {requests}; keepalive_timeout 300s; client_max_body_size 2m;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {tls}
    server {{ listen 127.0.0.1:{port} {options} backlog=4096; location / {{ return 200 "ok"; }} }}
}}
"""

CADDYFILE = """
{{
    admin off
    auto_https off
    log {{
        output discard
    }}
}}
http://127.0.0.1:{port} {{
    respond "ok"
}}
"""


@dataclass(frozen=True)
class Receiver:
    """Where to send, and which server answers there."""

    url: str
    server: str


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """Run the receiver on a free port of this machine until the block ends."""
    caddy = Path(sys.executable).with_name("caddy")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="receiver-") as folder:
        if NGINX:
            command = _nginx(folder, port)
        elif caddy.exists():
            configuration = Path(folder) / "configuration"
            configuration.write_text(CADDYFILE.format(port=port))
            command = [
                str(caddy), "run", "--adapter", "caddyfile", "--config", str(configuration),
            ]  # fmt: skip
        else:
            sys.exit("Neither nginx nor Caddy is installed; run this as `make bench`.")
        with _serving(command, port):
            yield Receiver(f"http://127.0.0.1:{port}/", "nginx" if NGINX else "Caddy")


@dataclass(frozen=True)
class HttpsReceiver:
    """Where to send, and whom to trust for it."""

    url: str
    ca_bundle: str


@contextmanager
def running_https_receiver(*, keeps: bool = True, h2: bool = False) -> Iterator[HttpsReceiver]:
    """Run nginx with a certificate of its own; `keeps` connections open, or closes each."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="receiver-") as folder:
        authority = Authority.make(Path(folder) / "ca")
        authority.context("127.0.0.1")
        pem = authority.folder / "127.0.0.1.pem"
        command = _nginx(
            folder,
            port,
            requests=100_000_000 if keeps else 1,
            tls=f"ssl_certificate {pem}; ssl_certificate_key {pem};",
            options="ssl http2" if h2 else "ssl",
        )
        with _serving(command, port):
            yield HttpsReceiver(f"https://127.0.0.1:{port}/", str(authority.bundle))


def _nginx(
    folder: str, port: int, *, requests: int = 100_000_000, tls: str = "", options: str = ""
) -> list[str]:
    """Write nginx's configuration into a folder and return the command that runs it."""
    if NGINX is None:
        sys.exit("nginx is not installed (Debian: apt-get install nginx-light).")
    configuration = Path(folder) / "configuration"
    configuration.write_text(
        NGINX_CONF.format(folder=folder, port=port, requests=requests, tls=tls, options=options)
    )
    return [NGINX, "-c", str(configuration), "-p", folder]


@contextmanager
def _serving(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), 10, "the receiver")
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
