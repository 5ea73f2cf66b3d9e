"""The audit log: actions with their actor, time and source."""

from typing import Any

from django.contrib import admin
from django.contrib.admin import display
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from webhooks.admin.base import BigTableAdmin
from webhooks.admin.filters import OwnerFilter, SinceFilter, UntilFilter
from webhooks.admin.look import ChangeList, TextFilter
from webhooks.admin.template_tags import ago
from webhooks.admin.webhook_pages import name_actors
from webhooks.doors import owners
from webhooks.models import AuditEntry


class ActorFilter(OwnerFilter):
    title = "who (id or e-mail)"
    parameter_name = "actor"

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = (self.value() or "").strip()
        if not value:
            return queryset
        actor_id = owners.key_of_user(value)
        return queryset.none() if actor_id is None else queryset.filter(actor_id=actor_id)


class ActionFilter(TextFilter):
    title = "what (such as webhook.disable)"
    parameter_name = "action"

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = (self.value() or "").strip()
        return queryset.filter(action=value) if value else queryset


class AuditList(ChangeList):
    """The page of entries; one query reads the names of all actors."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        entries = list(self.result_list)  # type: ignore[has-type]
        name_actors(entries)
        self.result_list = entries


@admin.register(AuditEntry)
class AuditEntryAdmin(BigTableAdmin):
    list_display = ("when", "who", "action", "object_reference", "what", "source_address")
    list_display_links = None
    list_filter = (SinceFilter, UntilFilter, ActorFilter, ActionFilter)
    search_fields = ("object_reference",)
    search_help_text = "An object as it is written here, such as webhook:0190…"
    actions = None

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return AuditList

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        # The index needs the whole reference.
        term = search_term.strip()
        return (queryset.filter(object_reference=term) if term else queryset), False

    @display(description="When", ordering="id")
    def when(self, entry: AuditEntry) -> SafeString | str:
        return ago(entry.created_at)

    @display(description="Who")
    def who(self, entry: Any) -> str:
        return str(entry.who)

    @display(description="Old → new")
    def what(self, entry: AuditEntry) -> str:
        return render_to_string("admin/webhooks/changes.html", {"entry": entry})
