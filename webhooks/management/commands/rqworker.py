"""django-rq's command, without the system checks of what a worker has no part in."""

from django.core.checks import Tags
from django_rq.management.commands.rqworker import Command as RqWorkerCommand

from webhooks.management.workers import RunsWorkers


class Command(RunsWorkers, RqWorkerCommand):
    help = "Run a worker, which delivers what is due, and RQ's jobs beside it."

    # To check URLs and the admin means to load them and the whole API: a tenth of its memory.
    requires_system_checks = [Tags.models, "webhooks"]
