"""Serve the site as in production: `python -m config.serve [--port 8000] [--processes N] [--threads N]`.

This module owns the command line of the application server. It provides missing settings as in
development: Postgres and Valkey from their wheels, with migrated tables, and the keys in var/. DEBUG
is always off.
"""

import argparse
import os
import signal
import subprocess
import sys
from base64 import b64encode

from config.embedded import die_with_parent
from config.services import BASE_DIR, provide_services

PROCESSES = min(2, len(os.sched_getaffinity(0)))
THREADS = 32
"""Threads per process. They wait for Postgres most of the time. Each keeps a connection, so processes
times threads plus the workers' connections must stay below max_connections."""
STATIC = BASE_DIR / "var" / "static"


def command(
    port: int,
    application: str = "config.wsgi:application",
    *,
    host: str = "127.0.0.1",
    processes: int = PROCESSES,
    threads: int = THREADS,
) -> list[str]:
    """Return the command line that serves an application (docs/performance-notes.md explains it).

    HTTP/2 and WebSockets are off, because the site does not use them. The server replaces a process
    that dies; if one dies twice within five seconds, the server exits for its supervisor to restart.
    """
    return [
        sys.executable, "-m", "granian", application, "--interface=wsgi", "--http=1", "--no-ws",
        f"--host={host}", f"--port={port}", f"--workers={processes}",
        f"--blocking-threads={threads}", "--respawn-failed-workers", "--workers-kill-timeout=30",
        "--log-level=error",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="config.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--processes", type=int, default=PROCESSES, help=f"({PROCESSES})")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"per process ({THREADS})")
    options = parser.parse_args()
    _prepare()
    sys.stdout.write(
        f"Serving on http://127.0.0.1:{options.port}/ (admin/, api/v1/docs) with "
        f"{options.processes} x {options.threads} threads until Ctrl-C.\n"
        "To deliver events, start a worker: .venv/bin/python manage.py rqworker (with DEBUG=1 "
        "unless DATABASE_URL is set)\n"
    )
    sys.stdout.flush()
    line = command(options.port, processes=options.processes, threads=options.threads)
    server = subprocess.Popen(
        [*line, f"--static-path-mount={STATIC}"],
        cwd=BASE_DIR,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
    )
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    # The terminal sends SIGINT to the server, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(server.wait())


def _prepare() -> None:
    """Set missing environment variables, migrate an embedded database, collect static files."""
    is_own_database = "DATABASE_URL" not in os.environ
    os.environ["DEBUG"] = "1"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    provide_services()
    import django
    from django.conf import settings
    from django.core.management import call_command

    django.setup()
    if is_own_database:
        call_command("migrate", verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    os.environ["DEBUG"] = "0"
    for name, value in {
        "SECRET_KEY": settings.SECRET_KEY,
        "WEBHOOKS_ENCRYPTION_KEYS": b64encode(settings.WEBHOOKS_ENCRYPTION_KEYS[0]).decode(),
        "ALLOWED_HOSTS": "127.0.0.1,localhost",
        "EMAIL_URL": "consolemail://",
        # The server does not support TLS; a proxy in front of it must.
        "SECURE_SSL_REDIRECT": "0",
    }.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
