"""Webhooks: the list with its health strips, and the pages of one webhook."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.views import ChangeList

from webhooks import access, service
from webhooks.admin import webhook_pages
from webhooks.admin.access import permissions_of
from webhooks.admin.base import OperatorAdmin
from webhooks.admin.display import (
    health_strip,
    health_tone,
    host_of,
    milliseconds,
    percent,
    state_of,
)
from webhooks.admin.secrets import RevealSecret, RevokeSecret, RotateSecret
from webhooks.admin.template_tags import ago, chip
from webhooks.admin.webhook_filters import KindFilter, StateFilter
from webhooks.admin.webhook_form import WebhookForm
from webhooks.admin.webhook_operations import (
    AddWebhook,
    DeleteWebhook,
    DisableWebhook,
    EnableWebhook,
    RedeliverFailed,
    TestWebhook,
)
from webhooks.errors import PublicIdInvalidError
from webhooks.figures import history
from webhooks.ids import WEBHOOK_PREFIX, parse_public_id
from webhooks.models import Webhook
from webhooks.models.webhook import SETTINGS

DAY = timedelta(hours=24)


class WebhookList(ChangeList):
    """The page of webhooks, each with what became of its deliveries of the last 24 hours."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        now = timezone.now()
        page: list[Any] = list(self.result_list)  # type: ignore[has-type]
        selection = history.Selection(
            since=now - DAY, webhook_ids=tuple(webhook.pk for webhook in page)
        )
        figures = {one.id: one.figures for one in history.by_webhook(selection)}
        strips = history.series_by_webhook(selection)
        for webhook in page:
            webhook.figures = figures.get(webhook.pk, history.Figures())
            webhook.strip = health_strip(strips.get(webhook.pk, []), now)
            webhook.seen_at = now
        self.result_list = page


HEADER_FIELDS = ("custom_headers", "remove_headers")


@admin.register(Webhook)
class WebhookAdmin(OperatorAdmin):
    form = WebhookForm
    change_form_template = "admin/webhooks/webhook/settings.html"
    id_prefix = WEBHOOK_PREFIX
    list_display = ("named", "state", "health", "success", "p95", "owner", "selected_events")
    list_display_links = ("named",)
    list_select_related = ("owner",)
    list_filter = (StateFilter, KindFilter)
    list_per_page = 25
    ordering = ("-id",)
    sortable_by = ()
    search_fields = ("name", "url", "owner__email")
    search_help_text = "Name, id (whk_…), host or owner's e-mail"
    actions = None
    operations: ClassVar[Iterable[Any]] = (
        AddWebhook, TestWebhook, EnableWebhook, DisableWebhook, DeleteWebhook, RedeliverFailed,
        RotateSecret, RevokeSecret, RevealSecret,
    )  # fmt: skip
    fieldsets = tuple(
        (heading or None, {"fields": (*names, *HEADER_FIELDS) if heading == "Sending" else names})
        for heading, names in SETTINGS.items()
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return WebhookList

    def has_add_permission(self, request: HttpRequest) -> bool:
        # A webhook is made together with its secret: AddWebhook does it.
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Deleting is soft: DeleteWebhook does it.
        return False

    def get_urls(self) -> list[URLPattern]:
        pages = [
            path(
                f"<path:object_id>/{page}/",
                self.admin_site.admin_view(getattr(self, f"{page}_view")),
                name=self.url_name(page),
            )
            for page in ("settings", "deliveries", "secrets", "verify", "history")
        ]
        return pages + super().get_urls()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Webhook], search_term: str
    ) -> tuple[QuerySet[Webhook], bool]:
        term = search_term.strip()
        if term.startswith(WEBHOOK_PREFIX):
            try:
                return queryset.filter(pk=parse_public_id(term, WEBHOOK_PREFIX)), False
            except PublicIdInvalidError:
                return queryset.none(), False
        found: tuple[QuerySet[Webhook], bool] = super().get_search_results(request, queryset, term)
        return found

    @display(description="Webhook")
    def named(self, webhook: Webhook) -> SafeString:
        return format_html(
            '<span class="op-two"><b>{}</b><small>{}</small></span>',
            webhook.name,
            host_of(webhook.url),
        )

    @display(description="State")
    def state(self, webhook: Any) -> SafeString:
        state = state_of(webhook, webhook.seen_at)
        detail = (
            format_html("{} {}", state.detail, ago(state.moment)) if state.moment else state.detail
        )
        return format_html(
            '<span class="op-two">{}<small class="op-clip" title="{}">{}</small></span>',
            chip(state.label, state.tone),
            state.detail,
            detail,
        )

    @display(description="Last 24 h")
    def health(self, webhook: Any) -> str:
        return render_to_string("admin/webhooks/strip.html", {"strip": webhook.strip})

    @display(description="Success")
    def success(self, webhook: Any) -> SafeString:
        figures = webhook.figures
        return format_html(
            '<span class="op-two"><b class="op-text-{}">{}</b><small>{} sent{}</small></span>',
            health_tone(figures),
            percent(figures.delivered_rate),
            f"{figures.deliveries:,}",
            f", {figures.retrying:,} retrying" if figures.retrying else "",
        )

    @display(description="p95")
    def p95(self, webhook: Any) -> str:
        return milliseconds(webhook.figures.duration_p95_ms)

    @display(description="Events")
    def selected_events(self, webhook: Webhook) -> SafeString:
        more = f" + {len(webhook.events) - 2} more" if len(webhook.events) > 2 else ""
        return format_html(
            '<span title="{}">{}{}</span>',
            ", ".join(webhook.events),
            ", ".join(webhook.events[:2]),
            more,
        )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may_add = access.may(request.user, AddWebhook.deed)
        context = {"may_add_webhook": may_add} | (extra_context or {})
        response: HttpResponse = super().changelist_view(request, context)
        return response

    list_before_template = "admin/webhooks/webhook/above_list.html"

    # The pages of one webhook.

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The overview; its form stands under the tab Settings."""
        webhook = self.find(request, object_id)
        return self.show(
            request, webhook, "overview", webhook_pages.overview(webhook, timezone.now())
        )

    def settings_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        webhook = self.find(request, object_id)
        context = permissions_of(request.user) | {
            "webhook": webhook,
            "tab": "settings",
            "title": webhook.name,
            "show_save_and_continue": False,
        }
        response: HttpResponse = self.changeform_view(request, str(webhook.pk), "", context)
        return response

    def deliveries_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        webhook = self.find(request, object_id)
        page = webhook_pages.deliveries(webhook, request.GET)
        return self.show(request, webhook, "deliveries", page)

    def secrets_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        webhook = self.find(request, object_id)
        return self.show(
            request, webhook, "secrets", webhook_pages.secrets(webhook, timezone.now())
        )

    def verify_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        webhook = self.find(request, object_id)
        return self.show(request, webhook, "verify", webhook_pages.verify(webhook))

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        webhook = self.find(request, object_id)
        return self.show(request, webhook, "history", webhook_pages.history(webhook))

    def show(
        self, request: HttpRequest, webhook: Webhook, tab: str, context: dict[str, Any]
    ) -> HttpResponse:
        frame = {
            "webhook": webhook,
            "tab": tab,
            "title": webhook.name,
            "original": webhook,
        }
        return self.render(request, f"admin/webhooks/webhook/{tab}.html", frame | context)

    def find(self, request: HttpRequest, object_id: str) -> Webhook:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        webhook = self.get_object(request, object_id)
        if not isinstance(webhook, Webhook):
            raise Http404
        return webhook

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is not None and obj.is_platform:
            return access.may(request.user, access.CHANGE_PLATFORM_WEBHOOK)
        allowed: bool = super().has_change_permission(request, obj)
        return allowed

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        service.update_webhook(obj, **form.changes())

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        messages.success(request, "The settings are saved.")
        for warning in service.warnings_of(obj):
            messages.warning(request, warning)
        return HttpResponseRedirect(reverse("admin:webhooks_webhook_change", args=[obj.pk]))
