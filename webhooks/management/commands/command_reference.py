"""`manage.py command_reference`: the page about every command."""

from typing import Any

from django.core.management.base import BaseCommand

from webhooks.management import reference


class Command(BaseCommand):
    help = "Print the page about every command in Markdown (make docs keeps docs/commands.md)."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(reference.render(), ending="")
