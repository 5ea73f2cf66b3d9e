"""`manage.py event_reference`: generate docs/events.md."""

from typing import Any

from django.core.management.base import BaseCommand

from webhooks.management import events_page


class Command(BaseCommand):
    help = "Print the page about all event types as Markdown (`make docs` writes docs/events.md)."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(events_page.render(), ending="")
