"""Plain registration; what happened is read-only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from webhooks.models import Attempt, Delivery, Event, Webhook, WorkerHeartbeat


class ReadOnlyAdmin(admin.ModelAdmin):
    """Facts: nobody adds, edits or deletes them by hand."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Webhook)
class WebhookAdmin(admin.ModelAdmin):
    list_display = ["name", "owner", "url", "active", "created_at"]
    list_select_related = ["owner"]
    list_filter = ["active"]
    search_fields = ["name", "url", "owner__email"]
    autocomplete_fields = ["owner"]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # A webhook is made together with its secret, by the service.
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Deleting is soft and goes through the service.
        return False


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ["public_id", "type", "owner_id", "fanout_count", "created_at"]
    list_filter = ["type"]
    fields = ["public_id", "type", "owner_id", "fanout_count", "object_reference", "created_at"]
    ordering = ["-id"]


class AttemptInline(admin.TabularInline):
    model = Attempt
    fields = ["number", "started_at", "duration_ms", "response_code", "failure_kind", "error"]
    readonly_fields = [
        "number",
        "started_at",
        "duration_ms",
        "response_code",
        "failure_kind",
        "error",
    ]
    extra = 0
    can_delete = False


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = [
        "public_id", "event_type", "webhook", "status", "attempt_count", "response_code",
        "next_attempt_at",
    ]  # fmt: skip
    list_select_related = ["webhook"]
    list_filter = ["status"]
    inlines = [AttemptInline]
    ordering = ["-id"]


@admin.register(WorkerHeartbeat)
class WorkerHeartbeatAdmin(ReadOnlyAdmin):
    list_display = ["host", "pid", "started_at", "beat_at", "in_flight"]
