"""Break everything under load and count: `python -m tests.chaos [--seed N] [--minutes M]`.

Real Postgres, Valkey, workers, web server and receiver, in production mode and over TCP and TLS;
models saved, written in bulk and rolled back, events triggered by HTTP; all of it killed, stopped, cut
off, restarted and emptied at random times, the same for the same seed. At the end everything is left
to settle, and what the receiver wrote down is held against what the producers wrote down before each
save.
Exit status 1 on any broken promise.
"""

import argparse
import os
import secrets
import shutil
import sys
import tempfile
from base64 import b64encode
from pathlib import Path
from urllib.parse import urlsplit

from config import embedded
from config.services import BASE_DIR, provide_services
from tests.chaos.clock import Clock, build_library
from tests.chaos.disk import Disk
from tests.chaos.options import add_options
from tests.chaos.receiver import ADDRESSES, HOST
from tests.webhooks.certificates import Authority

DISK_BYTES = 4 * 1024**3
PRODUCTION = {
    "DEBUG": "0",
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "ALLOWED_HOSTS": "localhost",
    # No proxy speaks TLS before the web server here.
    "SECURE_SSL_REDIRECT": "0",
    # The receiver is on this machine, on any port.
    "WEBHOOKS_ALLOWED_NETWORKS": "127.0.0.0/8",
    "WEBHOOKS_ALLOWED_PORTS": "*",
}
"""All else is as it is by default."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    add_options(parser, minutes=1)
    parser.add_argument("--workers", type=int, default=3, help="Worker processes (3).")
    parser.add_argument(
        "--without-valkey",
        action="store_true",
        help="Break nothing but that there is no Valkey at all; no write may fail then.",
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.chmod(0o711)
    # Before anything starts a thread or a process: they are to see it.
    disk = Disk(_folder(folder / "disk"), DISK_BYTES)
    os.chown(disk.folder, embedded.server_uid(), -1)
    try:
        status = _run(options, folder, disk)
    finally:
        disk.close()
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(status)


def _run(options: argparse.Namespace, folder: Path, disk: Disk) -> int:
    from tests.chaos.postgres import Postgres

    library = build_library(folder)
    database_clock = Clock(library, folder / "database.clock") if library else None
    worker_clock = Clock(library, folder / "worker.clock") if library else None
    public = _folder(folder / "public")
    authority = Authority.make(folder / "certificates")
    for host in (ADDRESSES[0], HOST):
        authority.context(host)
    # Where the programs of Postgres are looked for.
    os.environ |= {"DEBUG": "1", "DATABASE_URL": f"postgres:///?host={public}"}
    postgres = Postgres(disk.folder, public, database_clock.environment if database_clock else {})
    valkey: Path | None = _provide_valkey()
    if options.without_valkey:
        os.environ |= {"REDIS_URL": "redis://127.0.0.1:1/0", "CHAOS_WRITES_MUST_SUCCEED": "1"}
        valkey = None
    os.environ |= PRODUCTION | {
        "DATABASE_URL": postgres.url,
        "SECRET_KEY": secrets.token_urlsafe(50),
        "WEBHOOKS_ENCRYPTION_KEYS": b64encode(secrets.token_bytes(32)).decode(),
        "WEBHOOKS_CA_BUNDLE": str(authority.bundle),
    }
    postgres.start_first()
    try:
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        from tests.chaos import kinds
        from tests.chaos.run import Setting, run
        from tests.chaos.world import Servers, World

        servers = Servers(
            postgres, valkey, disk, database_clock, worker_clock, folder, authority.folder
        )
        setting = Setting(
            "chaos",
            authority.folder,
            [] if options.without_valkey else kinds.ALL,
            lambda recipients, token: World(
                options.seed, options.workers, servers, recipients, token
            ),
        )
        return run(setting, options)
    finally:
        postgres.close()


def _provide_valkey() -> Path:
    """Start the run's own Valkey, as in development, and return its socket."""
    os.environ.pop("REDIS_URL", None)
    provide_services(BASE_DIR / "var" / "chaos-services")
    return Path(urlsplit(os.environ["REDIS_URL"]).path)


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o711)
    return path


if __name__ == "__main__":
    main()
