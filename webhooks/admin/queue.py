"""The queue page: backlog, workers, failing chores, RQ and Valkey, and the pause of all sending."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from webhooks import service
from webhooks.admin.base import ReadOnlyAdmin
from webhooks.admin.operations import Operation
from webhooks.doors import access
from webhooks.errors import WebhooksError
from webhooks.figures import overview, present
from webhooks.models import Pause, WorkerHeartbeat
from webhooks.postgres import horizon
from webhooks.repair import housekeeping

DAY = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class RqState:
    """The state of RQ's queue, or that Valkey is unavailable."""

    answers: bool
    waiting: int = 0
    is_suspended: bool = False


def rq_state() -> RqState | None:
    """Ask Valkey with a short timeout; None where wake-ups do not go through RQ."""
    if settings.WEBHOOKS_WAKEUP != "rq":
        return None
    # By name: without RQ's packages this module must load all the same.
    found = import_module("webhooks.outbox.hints").queue_state()
    return RqState(False) if found is None else RqState(True, *found)


class QueueOperation(Operation):
    def find(self, object_id: str | None) -> None:
        return None

    def back_url(self) -> str:
        return reverse("admin:webhooks_workerheartbeat_changelist")


class PauseForm(forms.Form):
    reason = forms.CharField(max_length=500, help_text="All users of this page see it.")


class PauseSending(QueueOperation):
    name = "pause"
    url_path = "pause/"
    deed = access.PAUSE
    title = "Pause all sending"
    text = "Within a second, workers stop sending to all webhooks. Events are stored, their deliveries wait."
    button = "Pause sending"
    is_dangerous = True
    form_class = PauseForm

    def act(self, form: forms.Form) -> Any:
        reason = form.cleaned_data["reason"]
        if not service.pause_sending(reason, paused_by=self.request.user).is_new:
            raise WebhooksError("Sending is paused already.")
        self.note("sending.pause", "sending", paused=[False, True], reason=reason)
        return self.done("Sending is paused.")


class ResumeSending(QueueOperation):
    name = "resume"
    url_path = "resume/"
    deed = access.PAUSE
    title = "Resume sending"
    text = "Workers send all pending deliveries, as fast as the receivers accept them."
    button = "Resume sending"

    def act(self, form: forms.Form) -> Any:
        if not service.resume_sending():
            raise WebhooksError("Sending is not paused.")
        self.note("sending.resume", "sending", paused=[True, False])
        return self.done("Sending is resumed.")


@admin.register(WorkerHeartbeat)
class QueueAdmin(ReadOnlyAdmin):
    """The list of workers, with the rest of the page."""

    operations: ClassVar[Iterable[Any]] = (PauseSending, ResumeSending)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            "title": "Queue",
            "opts": None,
            "backlog": present.backlog(),
            "parked": overview.parked_since(timezone.now() - DAY),
            "workers": present.workers(),
            "chores": housekeeping.states(),
            "rq": rq_state(),
            "holder": horizon.holder(),
            "pause": Pause.objects.select_related("paused_by").first(),
        }
        return self.render(request, "admin/webhooks/queue.html", context)
