"""django-rq's command for several workers, with what ours have in common."""

from importlib import import_module
from typing import Any

from django.core.checks import Tags

from webhooks.management.workers import RunsWorkers

# Its name is no identifier.
RqWorkerPoolCommand: Any = import_module("django_rq.management.commands.rqworker-pool").Command


class Command(RunsWorkers, RqWorkerPoolCommand):  # type: ignore[misc]
    help = "Run several workers, each in a process of its own."

    requires_system_checks = [Tags.models, "webhooks"]
