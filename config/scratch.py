"""Separate servers and an empty database for a destructive program, such as chaos."""

import os
from pathlib import Path

from config.services import provide_services


def set_up_empty(directory: Path, **environment: str) -> None:
    """Set up Django with empty tables in the servers of `directory`.

    Ignores DATABASE_URL and REDIS_URL, so that no other database is touched. `environment` is added
    to the environment of this process and its children after the servers have started.
    """
    for url in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(url, None)
    os.environ |= {
        "DEBUG": "1",
        "WEBHOOKS_ALLOWED_NETWORKS": "127.0.0.0/8",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    provide_services(directory)
    os.environ |= environment
    import django
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    with connection.cursor() as cursor:
        # An older version of the program may have left tables.
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    call_command("migrate", verbosity=0)
