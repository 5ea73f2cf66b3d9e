"""`manage.py command_reference`: generate docs/commands.md."""

from typing import Any

from django.core.management.base import BaseCommand

from webhooks.management import reference


class Command(BaseCommand):
    help = "Print the page about all commands as Markdown (`make docs` writes docs/commands.md)."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(reference.render(), ending="")
