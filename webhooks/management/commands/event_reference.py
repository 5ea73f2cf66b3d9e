"""`manage.py event_reference`: generate docs/events.md."""

from typing import Any

from webhooks.management import events_page, terminal


class Command(terminal.Command):
    help = "Print the page about all event types as Markdown (`make docs` writes docs/events.md)."

    requires_migrations_checks = False

    def run(self, **options: Any) -> None:
        self.stdout.write(events_page.render(), ending="")
