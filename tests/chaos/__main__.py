"""Break everything under load and count: `python -m tests.chaos [--seed N] [--minutes M]`.

Real Postgres, Valkey, workers and receivers; models saved, written in bulk and rolled back; all of
it killed, stopped, restarted and emptied at random times, the same for the same seed. At the end
everything is left to settle, and what the receiver wrote down is held against the database.
Exit status 1 on any broken promise.
"""

import argparse
import os
import sys


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="Which run (1).")
    parser.add_argument("--minutes", type=float, default=1.0, help="How long to break things (1).")
    parser.add_argument("--workers", type=int, default=3, help="Worker processes (3).")
    parser.add_argument("--json", help="File to write the figures to.")
    options = parser.parse_args()
    _set_up()
    from tests.chaos.run import run

    sys.exit(run(options.seed, options.minutes, options.workers, options.json))


def _set_up() -> None:
    from config.services import BASE_DIR, provide_services

    # Never somebody's own database: everything in it is dropped.
    for url in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(url, None)
    os.environ |= {
        "DEBUG": "1",
        "WEBHOOKS_ALLOWED_NETWORKS": "127.0.0.0/8",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    provide_services(BASE_DIR / "var" / "chaos-services")
    import django
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    call_command("migrate", verbosity=0)


if __name__ == "__main__":
    main()
