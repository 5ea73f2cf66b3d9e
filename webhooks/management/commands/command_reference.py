"""`manage.py command_reference`: generate docs/commands.md."""

from typing import Any

from webhooks.management import reference, terminal


class Command(terminal.Command):
    help = "Print the page about all commands as Markdown (`make docs` writes docs/commands.md)."

    requires_migrations_checks = False

    def run(self, **options: Any) -> None:
        self.stdout.write(reference.render(), ending="")
