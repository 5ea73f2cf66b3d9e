"""Redeliveries: the list, and the page of one with its progress."""

from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin import display
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webhooks.admin.base import ReadOnlyAdmin
from webhooks.admin.look import ChangeList
from webhooks.admin.redelivery_display import (
    describe,
    matched_text,
    progress_context,
    webhook_names,
)
from webhooks.admin.redelivery_operations import (
    CancelRedelivery,
    DismissRedelivery,
    NewRedelivery,
)
from webhooks.admin.template_tags import ago, chip
from webhooks.ids import REDELIVERY_PREFIX
from webhooks.models import Redelivery
from webhooks.repair import redelivery_progress
from webhooks.repair.redelivery_scope import scope_of, warnings_of

SHOWN_OUTCOMES = 50
TONES = {"running": "info", "done": "success", "cancelled": "muted", "failed": "danger"}


class RedeliveryList(ChangeList):
    """The page of redeliveries, with the names of their webhooks."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: list[Any] = list(self.result_list)  # type: ignore[has-type]
        names = webhook_names(rows)
        for row in rows:
            row.names = names
        self.result_list = rows


@admin.register(Redelivery)
class RedeliveryAdmin(ReadOnlyAdmin):
    id_prefix = REDELIVERY_PREFIX
    list_display = ("named", "state", "what", "counts", "requested_by", "created")
    list_display_links = ("named",)
    list_select_related = ("requested_by",)
    list_per_page = 50
    ordering = ("-id",)
    sortable_by = ()
    actions = None
    list_before_template = "admin/webhooks/redelivery/above_list.html"
    operations: ClassVar[Iterable[Any]] = (NewRedelivery, CancelRedelivery, DismissRedelivery)

    def get_urls(self) -> list[URLPattern]:
        progress = path(
            "<path:object_id>/progress/",
            self.admin_site.admin_view(self.progress_view),
            name=self.url_name("progress"),
        )
        return [progress, *super().get_urls()]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RedeliveryList

    @display(description="Redelivery")
    def named(self, row: Redelivery) -> SafeString:
        kind = "replay" if row.is_replay else "redelivery"
        return format_html(
            '<span class="op-two"><b>{}</b><small class="op-mono">{}</small></span>',
            kind,
            row.public_id,
        )

    @display(description="State")
    def state(self, row: Redelivery) -> SafeString:
        return chip(row.get_status_display(), TONES[row.status])

    @display(description="Asked for")
    def what(self, row: Any) -> str:
        return describe(row, row.names)

    @display(description="Queued")
    def counts(self, row: Redelivery) -> str:
        return f"{row.queued_count:,} of {matched_text(row)}"

    @display(description="Started")
    def created(self, row: Redelivery) -> SafeString | str:
        return ago(row.created_at)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        row = self.find(request, object_id)
        progress_url = reverse("admin:webhooks_redelivery_progress", args=[row.pk])
        context = {
            "title": str(row),
            "original": row,
            "redelivery": row,
            "what": describe(row, webhook_names([row])),
            "warnings": warnings_of(scope_of(row)),
            "outcomes": redelivery_progress.outcomes(row)[:SHOWN_OUTCOMES],
            "progress_url": f"{progress_url}?outcomes=1",
        }
        return self.render(
            request, "admin/webhooks/redelivery/detail.html", context | progress_context(row)
        )

    def progress_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return the bar and the results per webhook, for pages that poll them."""
        row = self.find(request, object_id)
        context = {"redelivery": row} | progress_context(row)
        shown = render_to_string("admin/webhooks/redelivery/progress.html", context, request)
        if "outcomes" in request.GET:
            context = {"outcomes": redelivery_progress.outcomes(row)[:SHOWN_OUTCOMES]}
            shown += render_to_string("admin/webhooks/redelivery/outcomes.html", context, request)
        return HttpResponse(shown, headers={"Cache-Control": "no-store"})

    def find(self, request: HttpRequest, object_id: str) -> Redelivery:
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, object_id)
        if not isinstance(row, Redelivery):
            raise Http404
        return row
