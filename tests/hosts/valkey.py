"""Valkey with a replica, and the Sentinels that let it take over."""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.embedded import valkey_binary
from tests.hosts.lab import SENTINEL_PORT, SERVICE, Host, end, make_folder
from tests.workers import wait_until

PORT = 6379
SILENT_MS = 3000
"""After so long without an answer a Sentinel holds a server for dead."""
FAILOVER_SECONDS = 60
SENTINEL = """
port {port}
dir {folder}
sentinel monitor {service} {primary} {server_port} {quorum}
sentinel down-after-milliseconds {service} {silent}
sentinel failover-timeout {service} 10000
"""


class WatchedValkey:
    """A primary, a replica and three Sentinels; each on a host of its own."""

    def __init__(
        self, servers: Sequence[Host], sentinels: Sequence[Host], folder: Path, logs: Path
    ) -> None:
        self._folder = make_folder(folder / "valkey")
        self._log: IO[bytes] = (logs / "valkey.log").open("wb")
        self._servers = {host.address: host for host in servers}
        self._sentinels = sentinels
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._first, self._second = (host.address for host in servers)

    def start(self) -> None:
        self._run(self._first)
        self._run(self._second, "--replicaof", self._first, str(PORT))
        for host in self._sentinels:
            file = self._folder / f"{host.name}.conf"
            file.write_text(
                SENTINEL.format(
                    port=SENTINEL_PORT, folder=self._folder, service=SERVICE, primary=self._first,
                    server_port=PORT, quorum=len(self._sentinels) // 2 + 1, silent=SILENT_MS,
                )
            )  # fmt: skip
            self._spawn(host, str(file), "--sentinel", "--protected-mode", "no")
        wait_until(self._is_watched)

    def primary(self) -> str | None:
        """Return the address of the primary as most Sentinels know it."""
        said = [address for host in self._sentinels if (address := self._ask(host))]
        most = max(said, key=said.count, default=None)
        return most if most and said.count(most) > len(self._sentinels) // 2 else None

    def kill_primary(self) -> None:
        """Kill the primary, wait until the other one has taken over, and let the dead one come back."""
        wait_until(lambda: self.primary() in self._processes, FAILOVER_SECONDS)
        address = str(self.primary())
        end(self._processes.pop(address), signal.SIGKILL)
        wait_until(lambda: self.primary() not in (None, address), FAILOVER_SECONDS)
        # A primary again until the Sentinels see it.
        self._run(address)

    def close(self) -> None:
        for process in self._processes.values():
            end(process, signal.SIGKILL)

    def _run(self, address: str, *more: str) -> None:
        options = [
            "--port",
            str(PORT),
            "--protected-mode",
            "no",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        options += ["--dir", str(self._folder), "--dbfilename", f"{address}.rdb"]
        self._spawn(self._servers[address], *options, *more)
        wait_until(lambda: self._client(address, PORT) is not None)

    def _spawn(self, host: Host, *arguments: str) -> None:
        command = [str(valkey_binary()), *arguments]
        self._processes[host.address] = host.spawn(*command, log=self._log, environment={})

    def _is_watched(self) -> bool:
        """Whether every Sentinel knows the replica and the other Sentinels."""
        for host in self._sentinels:
            client = self._client(host.address, SENTINEL_PORT)
            if client is None:
                return False
            state: Any = client.sentinel_master(SERVICE)
            if (state["num-slaves"], state["num-other-sentinels"]) != (1, len(self._sentinels) - 1):
                time.sleep(0.2)
                return False
        return True

    def _ask(self, host: Host) -> str | None:
        client = self._client(host.address, SENTINEL_PORT)
        found: Any = client.sentinel_get_master_addr_by_name(SERVICE) if client else None
        return str(found[0]) if found else None

    def _client(self, address: str, port: int) -> redis.Redis | None:
        client = redis.Redis(
            address,
            port,
            socket_timeout=1,
            socket_connect_timeout=1,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        try:
            client.ping()
        except redis.RedisError:
            return None
        return client
