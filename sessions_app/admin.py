from django.contrib import admin

from sessions_app.models import Agent, Recording, Session, SessionMessage


@admin.register(Session)
class SessionAdmin(admin.ModelAdmin):
    list_display = ["title", "project", "status", "started_at", "ended_at"]
    list_select_related = ["project"]
    list_filter = ["status"]
    search_fields = ["title"]
    autocomplete_fields = ["project", "owner"]


@admin.register(SessionMessage)
class SessionMessageAdmin(admin.ModelAdmin):
    list_display = ["session", "sender", "created_at"]
    list_select_related = ["session"]
    autocomplete_fields = ["session"]


@admin.register(Recording)
class RecordingAdmin(admin.ModelAdmin):
    list_display = ["title", "session", "status", "file_size_bytes"]
    list_select_related = ["session"]
    list_filter = ["status"]
    autocomplete_fields = ["session"]


@admin.register(Agent)
class AgentAdmin(admin.ModelAdmin):
    list_display = ["name", "owner", "platform", "version", "status", "last_seen_at"]
    list_select_related = ["owner"]
    list_filter = ["status"]
    autocomplete_fields = ["owner"]
