"""Sessions, recordings and agents in the operators' admin."""

from django.contrib import admin
from django.db.models import URLField
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from sessions_app.models import Agent, Recording, Session, SessionMessage
from webhooks.admin.base import OperatorAdmin

MEGABYTE = 1024**2


class MessageInline(TabularInline):
    model = SessionMessage
    fields = ("sender", "content", "created_at")
    readonly_fields = ("created_at",)
    ordering = ("-id",)
    extra = 0
    tab = True
    per_page = 20


class RecordingInline(TabularInline):
    model = Recording
    fields = ("title", "status", "duration_seconds", "file_size_bytes")
    ordering = ("-id",)
    extra = 0
    tab = True
    per_page = 20
    show_change_link = True


@admin.register(Session)
class SessionAdmin(OperatorAdmin):
    list_display = ("title", "project", "owner", "state", "started_at", "length")
    list_select_related = ("project", "owner")
    list_filter = (("status", ChoicesDropdownFilter),)
    search_fields = ("title", "owner__email")
    autocomplete_fields = ("project", "owner")
    ordering = ("-id",)
    list_per_page = 50
    inlines = (MessageInline, RecordingInline)

    @display(
        description="Status",
        label={"Active": "success", "Paused": "warning", "Completed": "info"},
    )
    def state(self, session: Session) -> str:
        return session.get_status_display()

    @display(description="Length")
    def length(self, session: Session) -> str:
        minutes, seconds = divmod(session.duration_seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"


@admin.register(SessionMessage)
class SessionMessageAdmin(OperatorAdmin):
    list_display = ("session", "sender", "created_at")
    list_select_related = ("session",)
    # The table is large, so that counting its rows would be slow.
    show_full_result_count = False
    paginator = InfinitePaginator
    list_disable_select_all = True
    search_fields = ("id",)
    autocomplete_fields = ("session",)
    ordering = ("-id",)
    list_per_page = 50


@admin.register(Recording)
class RecordingAdmin(OperatorAdmin):
    formfield_overrides = {URLField: {"assume_scheme": "https"}}
    list_display = ("title", "session", "state", "size", "created_at")
    list_select_related = ("session",)
    list_filter = (("status", ChoicesDropdownFilter),)
    search_fields = ("title",)
    autocomplete_fields = ("session",)
    ordering = ("-id",)
    list_per_page = 50

    @display(
        description="Status",
        label={"Ready": "success", "Failed": "danger", "Uploading": "info", "Processing": "info"},
    )
    def state(self, recording: Recording) -> str:
        return recording.get_status_display()

    @display(description="Size")
    def size(self, recording: Recording) -> str:
        return f"{recording.file_size_bytes / MEGABYTE:,.1f} MB"


@admin.register(Agent)
class AgentAdmin(OperatorAdmin):
    list_display = ("name", "owner", "platform", "version", "state", "last_seen_at")
    list_select_related = ("owner",)
    list_filter = (("status", ChoicesDropdownFilter),)
    search_fields = ("name", "owner__email")
    autocomplete_fields = ("owner",)
    ordering = ("-id",)
    list_per_page = 50

    @display(
        description="Status", label={"Online": "success", "Busy": "warning", "Offline": "info"}
    )
    def state(self, agent: Agent) -> str:
        return agent.get_status_display()
