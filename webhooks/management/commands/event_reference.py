"""`manage.py event_reference`: the page about every event type."""

from typing import Any

from django.core.management.base import BaseCommand

from webhooks.management import events_page


class Command(BaseCommand):
    help = "Print the page about every event type in Markdown (make docs keeps docs/events.md)."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(events_page.render(), ending="")
