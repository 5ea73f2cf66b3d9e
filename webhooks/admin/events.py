"""Events: the list, and one event with its payload, its deliveries and the reasons for them."""

from collections.abc import Iterable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.admin import display
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webhooks import service
from webhooks.admin.base import BigTableAdmin
from webhooks.admin.filters import EventTypeFilter, OwnerFilter, SinceFilter, UntilFilter
from webhooks.admin.operations import Operation
from webhooks.admin.template_tags import ago
from webhooks.doors import access, owners
from webhooks.doors.downloads import as_file
from webhooks.errors import PublicIdInvalidError, RedeliveryScopeError
from webhooks.ids import EVENT_PREFIX, parse_public_id
from webhooks.models import Event, Webhook
from webhooks.models.owners import owner_model
from webhooks.repair.redelivery_scope import order_warnings, webhooks_missing
from webhooks.workbench.attempts import show_payload


class ReplayForm(forms.Form):
    webhooks = forms.MultipleChoiceField(
        widget=forms.CheckboxSelectMultiple, label="To which webhooks?"
    )


class ReplayEvent(Operation):
    """Create missing deliveries: the webhook was new or disabled, or had another filter."""

    name = "replay"
    deed = access.REDELIVER
    title = "Replay this event"
    text = (
        "These webhooks select the event now but never received it: they were new or disabled. "
        "To send an existing delivery again, redeliver it on its own page."
    )
    button = "Replay"

    def build_form(self, data: Any = None) -> forms.Form:
        form = ReplayForm(data)
        self.missing = {str(webhook.pk): webhook for webhook in webhooks_missing(self.subject)}
        choices = [
            (key, f"{webhook.name} ({webhook.url})") for key, webhook in self.missing.items()
        ]
        form.fields["webhooks"].choices = choices  # type: ignore[attr-defined]
        form.fields["webhooks"].initial = list(self.missing)
        return form

    def act(self, form: forms.Form) -> Any:
        chosen = [self.missing[key] for key in form.cleaned_data["webhooks"]]
        if not bytes(self.subject.payload):
            raise RedeliveryScopeError("The payload of this event was erased.")
        for webhook in chosen:
            redelivery = service.replay(
                webhook, None, event_id=self.subject.pk, requested_by=self.request.user
            )
            self.note("event.replay", webhook=webhook.public_id, redelivery=redelivery.public_id)
        self.missing = {str(webhook.pk): webhook for webhook in chosen}
        return self.done(f"The event is sent to {len(chosen)} more webhooks.")

    def warnings(self) -> list[str]:
        return order_warnings(Webhook.objects.filter(pk__in=self.missing))


@admin.register(Event)
class EventAdmin(BigTableAdmin):
    id_prefix = EVENT_PREFIX
    list_display = ("named", "owner", "webhooks", "object_reference", "created")
    list_display_links = ("named",)
    list_filter = (SinceFilter, UntilFilter, EventTypeFilter, OwnerFilter)
    search_fields = ("id",)
    search_help_text = "Id of an event (evt_…)"
    actions = None
    operations: ClassVar[Iterable[Any]] = (ReplayEvent,)

    def get_urls(self) -> list[URLPattern]:
        payload = path(
            "<path:object_id>/payload/",
            self.admin_site.admin_view(self.payload_view),
            name=self.url_name("payload"),
        )
        return [payload, *super().get_urls()]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        found: QuerySet[Event] = super().get_queryset(request).defer("payload", "body_hash")
        return found

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Event], search_term: str
    ) -> tuple[QuerySet[Event], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        prefix = EVENT_PREFIX if term.startswith(EVENT_PREFIX) else ""
        try:
            return queryset.filter(id=parse_public_id(term.replace("-", ""), prefix)), False
        except PublicIdInvalidError:
            return queryset.none(), False

    @display(description="Event")
    def named(self, event: Event) -> SafeString:
        return format_html(
            '<span class="op-two"><b>{}</b><small class="op-mono">{}</small></span>',
            event.type,
            event.public_id,
        )

    @display(description="Owner")
    def owner(self, event: Event) -> str:
        return str(event.owner_id or "nobody")

    @staticmethod
    def _owner_name(event: Event) -> str:
        found = owner_model()._default_manager.filter(pk=event.owner_id).first()
        return owners.name_of(found) if found else str(event.owner_id or "")

    @display(description="Webhooks")
    def webhooks(self, event: Event) -> int:
        return event.fanout_count

    @display(description="Created", ordering="id")
    def created(self, event: Event) -> SafeString | str:
        return ago(event.created_at)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        event = self.find(request, object_id)
        context = {
            "title": str(event),
            "original": event,
            "event": event,
            "owner": self._owner_name(event),
            "payload": show_payload(bytes(event.payload)),
            "explanation": service.explain(
                event, with_values=request.user.has_perm(access.VIEW_PAYLOAD)
            ),
            "missing": webhooks_missing(event),
        }
        return self.render(request, "admin/webhooks/event/detail.html", context)

    def payload_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        event = self.find(request, object_id)
        if not request.user.has_perm(access.VIEW_PAYLOAD):
            raise PermissionDenied
        return as_file(bytes(event.payload), f"{event.public_id}.json")

    def find(self, request: HttpRequest, object_id: str) -> Event:
        if not self.has_view_permission(request):
            raise PermissionDenied
        event = self.get_object(request, object_id)
        if not isinstance(event, Event):
            raise Http404
        return event
