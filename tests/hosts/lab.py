"""Hosts as network namespaces of this machine, joined by a bridge; see tests/hosts/__main__.py.

All of it lies in a network, mount and process namespace of the run: it ends with the run's first
process, however that ends, and leaves nothing behind.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from config.embedded import DATABASE, server_uid

NETWORK = "10.0.0"
"""That of the examples in deploy/."""
BRIDGE = "switch0"
POSTGRES_PORT = 5432
ROLE = "webhooks_app"
"""What the product logs in as: a role that owns nothing (deploy/grants.sql)."""
SENTINEL_PORT = 26379
SERVICE = "webhooks"
"""The name under which the Sentinels know Valkey."""
ISOLATED = "HOSTS_ISOLATED"
"""Set in the environment of a run that has namespaces of its own."""

SLOW_RATE = "2mbit"
LOST_PERCENT = 3
RULES = """
table bridge lossy {{
    chain forward {{
        type filter hook forward priority 0;
        iifname "{port}" numgen random mod 100 < {percent} drop;
        oifname "{port}" numgen random mod 100 < {percent} drop;
    }}
}}
"""


def missing() -> str | None:
    """Say why there can be no such hosts here; None if there can."""
    if os.getuid() != 0:
        return "Network namespaces need root."
    if absent := [
        name for name in ("ip", "tc", "unshare", "nsenter") if shutil.which(name) is None
    ]:
        return f"{', '.join(absent)} is missing (Debian: apt-get install iproute2 util-linux)."
    if find("pgbouncer") is None:
        return "PgBouncer is missing (Debian: apt-get install pgbouncer)."
    works = "ip link add veth-a type veth peer name veth-b && ip link add switch-a type bridge"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-c", works],
        capture_output=True,
        check=False,
    )
    return f"No namespaces or links here: {tried.stderr.decode()}" if tried.returncode else None


def isolate(module: str, arguments: Sequence[str]) -> None:
    """Run `python -m module` again in namespaces of its own, in place of this process."""
    if reason := missing():
        sys.exit(f"Not run: {reason}")
    os.environ[ISOLATED] = "1"
    inside = [sys.executable, "-m", module, *arguments]
    spaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", *spaces, *inside])  # noqa: S606


def find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@dataclass(frozen=True)
class Host:
    """A network namespace with one link to the bridge."""

    name: str
    addresses: tuple[str, ...]

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def port(self) -> str:
        """The bridge's side of the link."""
        return f"v-{self.name}"

    @property
    def prefix(self) -> list[str]:
        """What the command of a process on this host begins with; the process id stays the same."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def spawn(
        self,
        *command: str,
        log: IO[bytes],
        environment: Mapping[str, str] | None = None,
        is_server: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process on this host; servers that refuse to run as root get another user."""
        user = ["-S", str(server_uid()), "-G", str(server_uid())] if is_server else []
        return subprocess.Popen(
            [*self.prefix, *user, "--", *command],
            cwd="/" if is_server else None,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def run(self, *command: str, log: IO[bytes], is_server: bool = False) -> None:
        """Run a program to its end; raises CalledProcessError."""
        status = self.spawn(*command, log=log, is_server=is_server).wait()
        if status:
            raise subprocess.CalledProcessError(status, command)


def database_url(hosts: Sequence[Host], user: str = ROLE) -> str:
    """Return the URL that leads to the primary among these hosts, whichever it is."""
    places = ",".join(f"{host.address}:{POSTGRES_PORT}" for host in hosts)
    return f"postgres://{user}@{places}/{DATABASE}?target_session_attrs=read-write"


def valkey_url(sentinels: Sequence[Host]) -> str:
    """Return the URL that leads to the primary that the Sentinels of these hosts know."""
    places = ",".join(f"{host.address}:{SENTINEL_PORT}" for host in sentinels)
    return f"redis+sentinel://{places}/{SERVICE}/0"


class Lab:
    """The bridge and the hosts on it. The run itself is on the bridge, too, at NETWORK.1."""

    def __init__(self) -> None:
        _isolate_run_folder()
        _ip("link set lo up")
        _ip(f"link add {BRIDGE} type bridge")
        _ip(f"addr add {NETWORK}.1/24 dev {BRIDGE}")
        _ip(f"link set {BRIDGE} up")
        self.loses_packets = find("nft") is not None

    def add(self, name: str, *numbers: int) -> Host:
        host = Host(name, tuple(f"{NETWORK}.{number}" for number in numbers))
        _ip(f"netns add {name}")
        _ip(f"link add {host.port} type veth peer name eth0 netns {name}")
        _ip(f"link set {host.port} master {BRIDGE} up")
        for address in host.addresses:
            _ip(f"-n {name} addr add {address}/24 dev eth0")
        _ip(f"-n {name} link set eth0 up")
        _ip(f"-n {name} link set lo up")
        return host

    def cut(self, host: Host) -> None:
        """Let nothing through to a host or from it; no connection is closed."""
        _ip(f"link set {host.port} nomaster")

    def join(self, host: Host) -> None:
        _ip(f"link set {host.port} master {BRIDGE}")

    @contextmanager
    def slow(self, host: Host) -> Iterator[None]:
        """Let a host's link be slow, and lose packets where nftables is installed.

        The queue before it is long, as in real routers: what waits in it is late by up to half a
        second, and what finds it full is lost.
        """
        shape = f"root tbf rate {SLOW_RATE} burst 16kb latency 500ms"
        sides = [f"dev {host.port}", f"-n {host.name} dev eth0"]
        _tc(f"qdisc replace {sides[0]} {shape}")
        _tc(f"-n {host.name} qdisc replace dev eth0 {shape}")
        if self.loses_packets:
            _nft(RULES.format(port=host.port, percent=LOST_PERCENT))
        try:
            yield
        finally:
            _tc(f"qdisc del dev {host.port} root")
            _tc(f"-n {host.name} qdisc del dev eth0 root")
            if self.loses_packets:
                _nft("delete table bridge lossy")


def _isolate_run_folder() -> None:
    """Let what is written to /run, such as the names of namespaces, be gone with the run."""
    if ISOLATED not in os.environ:
        raise RuntimeError("This would change the machine's own network.")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def _tc(words: str) -> None:
    subprocess.run(["tc", *words.split()], check=True)


def _nft(rules: str) -> None:
    program = find("nft")
    assert program is not None
    subprocess.run([program, "-f", "-"], input=rules, text=True, check=True)


def end(process: subprocess.Popen[bytes] | None, number: int) -> None:
    """Send a process a signal and wait for its end."""
    if process is not None:
        with suppress(ProcessLookupError):
            process.send_signal(number)
        process.wait()


def make_folder(path: Path) -> Path:
    """Make a folder for a server that does not run as root."""
    path.mkdir(mode=0o711)
    os.chown(path, server_uid(), server_uid())
    return path
