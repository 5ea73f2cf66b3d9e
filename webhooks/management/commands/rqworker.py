"""`manage.py rqworker`: django-rq's command with our defaults and fewer system checks."""

from django.core.checks import Tags
from django_rq.management.commands.rqworker import Command as RqWorkerCommand

from webhooks.management.workers import RunsWorkers


class Command(RunsWorkers, RqWorkerCommand):
    help = "Run a worker, which sends due deliveries and runs RQ jobs."

    # The checks of URLs and the admin would import the whole API: a tenth of the worker's memory.
    requires_system_checks = [Tags.models, "webhooks"]
