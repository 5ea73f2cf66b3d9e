"""`manage.py rqworker-pool`: django-rq's command with our defaults and fewer system checks."""

from importlib import import_module
from typing import Any

from django.core.checks import Tags

from webhooks.management.workers import RunsWorkers

# The module's name is not an identifier.
RqWorkerPoolCommand: Any = import_module("django_rq.management.commands.rqworker-pool").Command


class Command(RunsWorkers, RqWorkerPoolCommand):  # type: ignore[misc]
    help = "Run several workers, one process each."

    requires_system_checks = [Tags.models, "webhooks"]
