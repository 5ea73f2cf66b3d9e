"""Run the real PgBouncer before the test database; a test skips where it is not installed."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection

from config.embedded import die_with_parent, server_uid
from tests.workers import answers, environment, free_port, wait_until

PROGRAM = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")

CONFIGURATION = """
[databases]
* = host={host} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = {auth_type}
auth_file = {auth_file}
pool_mode = {pool_mode}
default_pool_size = {pool_size}
"""


@contextmanager
def pgbouncer(
    pool_mode: str = "transaction", pool_size: int = 4, password: str | None = None
) -> Iterator[str]:
    """Run PgBouncer until the block ends; yields the test database's URL through it.

    All but the arguments is PgBouncer's default. A password that it asks for is in the URL as it is.
    """
    if PROGRAM is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        # It refuses to run as root; our own user must read the file either way.
        Path(folder).chmod(0o755)
        file = Path(folder) / "pgbouncer.ini"
        users = Path(folder) / "users.txt"
        users.write_text(f'"{_user()}" "{password or ""}"\n')
        users.chmod(0o644)
        file.write_text(
            CONFIGURATION.format(
                host=_socket_directory(),
                user=_user(),
                port=port,
                pool_mode=pool_mode,
                pool_size=pool_size,
                auth_type="any" if password is None else "plain",
                auth_file=users,
            )
        )
        file.chmod(0o644)
        process = subprocess.Popen(
            [PROGRAM, str(file)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=server_uid() if os.getuid() == 0 else None,
            extra_groups=[] if os.getuid() == 0 else None,
            preexec_fn=lambda: die_with_parent(9),
        )
        try:
            wait_until(lambda: answers(port))
            settings = connection.settings_dict
            credentials = _user() if password is None else f"{_user()}:{password}"
            yield f"postgres://{credentials}@127.0.0.1:{port}/{settings['NAME']}"
        finally:
            process.kill()
            process.wait()
            log.seek(0)
            # For whoever reads why the test failed.
            print(log.read().decode(), file=sys.stderr)  # noqa: T201


def python_through(url: str, program: str, **changes: str) -> subprocess.Popen[str]:
    """Start a program of Python on the database at `url`, Django being set up."""
    prelude = "import django; django.setup()\nfrom django.db import connection, transaction\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + program],
        env=environment(DATABASE_URL=url, DJANGO_SETTINGS_MODULE="config.settings", **changes),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: die_with_parent(9),
    )


def output_of(process: subprocess.Popen[str], text: str = "") -> str:
    """Give a program the text to read and return what it still prints; it must end well."""
    out, err = process.communicate(text, timeout=120)
    assert process.returncode == 0, err
    return out


def _user() -> str:
    return str(connection.settings_dict["USER"] or connection.settings_dict["OPTIONS"]["user"])


def _socket_directory() -> str:
    """Return where the server's socket itself lies: its user may not follow ours to it."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW unix_socket_directories")
        return str(cursor.fetchone()[0])
