"""The page that makes a webhook: a tree of event types, and suggestions of owners."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse

from webhooks import service
from webhooks.admin.base import LIST_SECONDS
from webhooks.admin.secrets import SecretOperation
from webhooks.admin.webhook_form import PatternsField, PatternTree
from webhooks.doors import access, owners
from webhooks.postgres.sql import limit_statements

MAX_SUGGESTIONS = 10
LEAST_LETTERS = 2


def suggest_owners(request: HttpRequest) -> HttpResponse:
    """Return the names of owners that begin like `q`, for those who may make webhooks."""
    if not access.may(request.user, access.ADD_WEBHOOK):
        raise PermissionDenied
    start = request.GET.get("q", "").strip()
    if len(start) < LEAST_LETTERS:
        return JsonResponse({"owners": []})
    with transaction.atomic():
        limit_statements(LIST_SECONDS)
        found = list(owners.owners_beginning_with(start)[:MAX_SUGGESTIONS])
        limit_statements(0)
    return JsonResponse({"owners": sorted(map(owners.name_of, found))})


class NewWebhookForm(forms.Form):
    is_platform = forms.BooleanField(
        required=False,
        label="Platform webhook",
        help_text="Receives every owner's events and has no owner.",
    )
    owner = forms.CharField(
        required=False, widget=forms.TextInput(attrs={"list": "owners", "autocomplete": "off"})
    )
    name = forms.CharField(max_length=200)
    url = forms.CharField(label="URL", max_length=2048)
    events = PatternsField(widget=PatternTree)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        word = owners.name_word()
        self.fields["owner"].help_text = f"The owner's {word}; its start suggests some."

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if data.get("is_platform"):
            data["owner"] = None
        elif name := data.get("owner"):
            found = owners.find_owners(name)[:2]
            data["owner"] = found[0] if len(found) == 1 else None
            if not found:
                self.add_error("owner", f"No owner has this {owners.name_word()} or id.")
            elif data["owner"] is None:
                self.add_error("owner", "Several owners have this name: give an id.")
        elif "owner" not in self.errors:
            self.add_error("owner", "Name the owner, or make it a platform webhook.")
        return data


class AddWebhook(SecretOperation):
    name = "new"
    url_path = "new/"
    deed = access.ADD_WEBHOOK
    title = "Add a webhook"
    button = "Add"
    form_class = NewWebhookForm
    template = "admin/webhooks/webhook/new.html"

    def find(self, object_id: str | None) -> None:
        return None

    def back_url(self) -> str:
        return reverse("admin:webhooks_webhook_changelist")

    def act(self, form: forms.Form) -> HttpResponse:
        data = form.cleaned_data
        if data["is_platform"] and not access.may(self.request.user, access.ADD_PLATFORM_WEBHOOK):
            raise PermissionDenied
        webhook = service.create_webhook(**data)
        self.note(
            "webhook.create", webhook, name=data["name"], url=data["url"], events=data["events"]
        )
        for warning in service.warnings_of(webhook):
            messages.warning(self.request, warning)
        values = [("Secret", webhook.secret)]
        back_url = self.url_of(webhook, "secrets")
        return self.show(webhook, "The webhook's signing secret", values, back_url)
