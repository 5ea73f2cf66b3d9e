"""Servers and an empty database of its own for a program that wrecks what it finds."""

import os
from pathlib import Path

from config.services import provide_services


def set_up_empty(directory: Path, **environment: str) -> None:
    """Run Django on new tables in the servers of `directory`; never on somebody's own database.

    `environment` is what this process and its children see from then on, instead of DEBUG.
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
        # Whatever an older version left behind.
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    call_command("migrate", verbosity=0)
