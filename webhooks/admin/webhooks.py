"""Webhooks: the list, and the pages of one webhook."""

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from webhooks import service
from webhooks.admin import second_factor, webhook_pages
from webhooks.admin.access import permissions_of
from webhooks.admin.base import OperatorAdmin
from webhooks.admin.look import IS_PLAIN, ChangeList
from webhooks.admin.secrets import RevealSecret, RevokeSecret, RotateSecret
from webhooks.admin.webhook_filters import KindFilter, StateFilter
from webhooks.admin.webhook_form import WebhookForm
from webhooks.admin.webhook_list import WebhookColumns, WebhookList
from webhooks.admin.webhook_new import AddWebhook, suggest_owners
from webhooks.admin.webhook_operations import (
    DeleteWebhook,
    DisableWebhook,
    EnableWebhook,
    MakePortalLink,
    RedeliverFailed,
    TestWebhook,
    TryNow,
    VerifyWebhook,
)
from webhooks.doors import access, owners
from webhooks.doors.setting_fields import changes_of
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import WEBHOOK_PREFIX, parse_public_id
from webhooks.models import Webhook
from webhooks.models.webhook import SETTINGS

HEADER_FIELDS = ("custom_headers", "remove_headers")
PAGES = ("settings", "filter", "deliveries", "secrets", "verify", "history")
"""Of one webhook, beside the overview; each has a view of its own."""


@admin.register(Webhook)
class WebhookAdmin(WebhookColumns, OperatorAdmin):
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
    list_before_template = "admin/webhooks/webhook/above_list.html"
    search_help_text = "Name, id (whk_…), host or owner"
    actions = None
    operations: ClassVar[Iterable[Any]] = (
        AddWebhook, TestWebhook, VerifyWebhook, TryNow, EnableWebhook, DisableWebhook, DeleteWebhook,
        RedeliverFailed,
        RotateSecret, RevokeSecret, RevealSecret, MakePortalLink,
    )  # fmt: skip
    fieldsets = tuple(
        (heading or None, {"fields": (*names, *HEADER_FIELDS) if heading == "Sending" else names})
        for heading, names in SETTINGS.items()
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return WebhookList

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return ("name", "url", *owners.shown_name_paths("owner"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        # AddWebhook creates a webhook together with its secret.
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # DeleteWebhook deletes softly.
        return False

    def get_urls(self) -> list[URLPattern]:
        pages = [
            path(
                f"<path:object_id>/{page}/",
                self.admin_site.admin_view(getattr(self, f"{page}_view")),
                name=self.url_name(page),
            )
            for page in PAGES
        ]
        owners = path(
            "owners/", self.admin_site.admin_view(suggest_owners), name=self.url_name("owners")
        )
        factor = [
            path(
                url_path,
                self.admin_site.admin_view(partial(view, model_admin=self)),
                name=self.url_name(name),
            )
            for url_path, view, name in second_factor.PAGES
        ]
        return [owners, *factor, *pages, *super().get_urls()]

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

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may_add = access.may(request.user, AddWebhook.deed)
        context = {"may_add_webhook": may_add} | (extra_context or {})
        response: HttpResponse = super().changelist_view(request, context)
        return response

    # The pages of one webhook.

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The overview; the tab Settings has the form."""
        webhook = self.find(request, object_id)
        page = webhook_pages.overview(webhook, timezone.now())
        return self.show(request, webhook, "overview", page)

    def settings_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        webhook = self.find(request, object_id)
        context = permissions_of(request.user) | {
            "webhook": webhook,
            "tab": "settings",
            "is_plain": IS_PLAIN,
            "title": webhook.name,
            "show_save_and_continue": False,
        }
        response: Any = self.changeform_view(request, str(webhook.pk), "", context)
        shown = getattr(response, "context_data", None) or {}
        if "adminform" in shown and getattr(shown["adminform"].form, "is_overtaken", False):
            response.status_code = 422
        return response  # type: ignore[no-any-return]

    def deliveries_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        webhook = self.find(request, object_id)
        page = webhook_pages.deliveries(webhook, request.GET)
        return self.show(request, webhook, "deliveries", page)

    def filter_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        webhook = self.find(request, object_id)
        page = webhook_pages.filter_preview(webhook, request.GET, request.user)
        return self.show(request, webhook, "filter", page)

    def secrets_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        webhook = self.find(request, object_id)
        page = webhook_pages.secrets(webhook, timezone.now())
        return self.show(request, webhook, "secrets", page)

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
        is_deleted = obj is not None and obj.deleted_at is not None
        return access.may(request.user, access.CHANGE_SETTINGS) and not is_deleted

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        service.update_webhook(obj, **changes_of(form))

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        messages.success(request, "The settings are saved.")
        for warning in service.warnings_of(obj):
            messages.warning(request, warning)
        return HttpResponseRedirect(reverse("admin:webhooks_webhook_change", args=[obj.pk]))
