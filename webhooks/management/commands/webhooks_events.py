"""`manage.py webhooks_events`: what the project announces."""

from typing import Any

from django.core.management.base import CommandParser

from webhooks import catalog
from webhooks.management import arguments, terminal
from webhooks.management.terminal import table
from webhooks.tracking.declaration import declarations
from webhooks.tracking.writes import tracked_models

BY_HAND = "by trigger_event(), the API or functions"


class Command(terminal.Command):
    help = (
        "Print every event type with its data and, where a declaration says so, the model and the "
        "owner; then the models whose writes are tracked, with the columns that cause events."
    )
    epilog = """examples:
  manage.py webhooks_events
  manage.py webhooks_events --format json"""
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        types, models = _types(), _models()
        if options["format"] == "json":
            self.show_json({"types": types, "models": models})
            return
        rows = [[t["type"], t["model"] or BY_HAND, t["owner"], ", ".join(t["data"])] for t in types]
        for line in table(["TYPE", "ANNOUNCED BY", "OWNER", "DATA"], rows):
            self.show(line)
        self.show()
        rows = [[one["model"], ", ".join(one["columns"])] for one in models]
        for line in table(["TRACKED MODEL", "COLUMNS"], rows):
            self.show(line)


def _types() -> list[dict[str, Any]]:
    declared = {
        type_: one for one in declarations() if not one.problems for type_ in one.types
    }  # fmt: skip
    return [
        {
            "type": one.name,
            "model": declared[one.name].model._meta.label if one.name in declared else None,
            "owner": (declared[one.name].owner or "none") if one.name in declared else "",
            "data": list(one.schema.get("properties", {})),
        }
        for one in catalog.all_types()
    ]


def _models() -> list[dict[str, Any]]:
    return [
        {"model": model._meta.label, "columns": [*tracking.fields, *tracking.related]}
        for model, tracking in tracked_models().items()
    ]
