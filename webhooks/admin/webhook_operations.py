"""The operations on a webhook besides editing it."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpResponse
from django.urls import reverse
from django.utils.text import Truncator

from webhooks import service
from webhooks.admin.operations import Operation
from webhooks.admin.secrets import SecretOperation
from webhooks.admin.webhook_form import PatternsField
from webhooks.admin.webhook_pages import count_failed
from webhooks.doors import access
from webhooks.errors import RedeliveryScopeError
from webhooks.figures.display import bounded
from webhooks.models import PortalLink
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.registry.portal_links import facts_of
from webhooks.repair.redelivery_scope import Scope, matching, warnings_of


class TestWebhook(Operation):
    name = "test"
    deed = access.CHANGE_WEBHOOK
    title = "Send a test request"
    text = "One signed webhook.test request is sent at once. It is neither stored nor retried."
    button = "Send now"
    # It waits for a foreign server.
    is_atomic = False

    def act(self, form: forms.Form) -> Any:
        tryout = service.test_webhook(self.subject)
        self.note("webhook.test", response_code=tryout.response_code, error=tryout.error)
        if tryout.succeeded:
            told = f"The receiver answered {tryout.response_code} in {tryout.duration_ms} ms."
            return self.done(told)
        told = f"The test failed: {tryout.error}"
        if tryout.response_excerpt and self.request.user.has_perm(access.VIEW_PAYLOAD):
            told += f" It said: {Truncator(tryout.response_excerpt).chars(200)}"
        return self.done(told, level=messages.ERROR)


class VerifyWebhook(Operation):
    # The page `verify` shows how receivers verify signatures.
    name = "challenge"
    deed = access.CHANGE_WEBHOOK
    title = "Verify the webhook"
    text = (
        "One signed webhook.challenge is sent at once. The webhook is verified if the receiver "
        "answers 2xx with the value of data.challenge as the body."
    )
    button = "Send the challenge"
    is_atomic = False

    def act(self, form: forms.Form) -> Any:
        was = self.subject.verified
        proof = service.prove(self.subject)
        self.note("webhook.verify", verified=[was, self.subject.verified], error=proof.error)
        if proof.verified:
            return self.done(f"{self.subject.name} is verified.")
        return self.done(f"It is not verified: {proof.error}", level=messages.ERROR)


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=500, help_text="The owner and other operators see it.")


class DisableWebhook(Operation):
    name = "disable"
    deed = access.CHANGE_WEBHOOK
    title = "Disable the webhook"
    text = "Within a second, nothing more is sent to it. Its deliveries wait until it is enabled."
    button = "Disable"
    is_dangerous = True
    form_class = ReasonForm

    def act(self, form: forms.Form) -> Any:
        reason = form.cleaned_data["reason"]
        service.disable(self.subject, reason)
        self.note("webhook.disable", active=[True, False], reason=reason)
        return self.done(f"{self.subject.name} is disabled.")


class EnableForm(forms.Form):
    send = forms.ChoiceField(
        label="Which waiting deliveries to send?",
        widget=forms.RadioSelect,
        initial="recent",
        choices=[
            ("recent", "Send those younger than three days, cancel the rest"),
            ("all", "Send everything"),
            ("none", "Cancel everything"),
        ],
    )


class EnableWebhook(Operation):
    name = "enable"
    deed = access.CHANGE_WEBHOOK
    title = "Enable the webhook"
    text = "It starts as if it had never failed, with one request at a time."
    button = "Enable"
    form_class = EnableForm

    def act(self, form: forms.Form) -> Any:
        was, reason = self.subject.active, self.subject.disabled_reason
        count = service.enable(self.subject, send=form.cleaned_data["send"])
        self.note(
            "webhook.enable",
            active=[was, True],
            disabled_reason=[reason, ""],
            waiting=form.cleaned_data["send"],
        )
        return self.done(
            f"{self.subject.name} is enabled; {bounded(count)} deliveries wait to be sent."
        )


class DeleteWebhook(Operation):
    name = "remove"
    deed = access.DELETE_WEBHOOK
    title = "Delete the webhook"
    text = (
        "Nothing more is sent to it, and its pending deliveries are cancelled. Its history stays."
    )
    button = "Delete"
    is_dangerous = True

    def act(self, form: forms.Form) -> Any:
        service.delete_webhook(self.subject)
        self.note("webhook.delete", name=self.subject.name, url=self.subject.url)
        return self.done(f"{self.subject.name} is deleted.")


class PortalLinkForm(forms.Form):
    capabilities = forms.MultipleChoiceField(
        choices=PortalLink.Capability.choices,
        widget=forms.CheckboxSelectMultiple,
        initial=["view"],
        label="What may be done there?",
    )
    is_limited = forms.BooleanField(
        required=False, label="Show this webhook only", help_text="Not the owner's others."
    )


class MakePortalLink(SecretOperation):
    name = "portal-link"
    deed = access.OPEN_PORTAL
    title = "Make a link into the owner's portal"
    text = (
        "Whoever opens it, once and within 15 minutes, sees there what the owner sees, for 8 hours."
    )
    button = "Make the link"
    form_class = PortalLinkForm

    def back_url(self) -> str:
        return self.url_of(self.subject)

    def act(self, form: forms.Form) -> Any:
        data, webhook = form.cleaned_data, self.subject
        if webhook.owner_id is None:
            raise ValidationError("A platform webhook has no owner, and so no portal.")
        link = service.create_portal_link(
            webhook.owner_id,
            capabilities=data["capabilities"],
            webhook=webhook if data["is_limited"] else None,
            created_by=self.request.user,
        )
        self.note("portallink.create", link, **facts_of(link))
        url = self.request.build_absolute_uri(reverse("portal-open", args=[link.key]))
        return self.show(webhook, "The link", [("Opens once", url)], self.back_url())


class RedeliverFailed(Operation):
    name = "redeliver-failed"
    deed = access.REDELIVER
    title = "Redeliver what failed"
    button = "Redeliver"
    template = "admin/webhooks/webhook/redeliver_failed.html"

    def context(self) -> dict[str, Any]:
        return {"count": count_failed(self.subject), "counted_at_most": COUNTED_AT_MOST}

    def act(self, form: forms.Form) -> Any:
        scope = Scope(webhook_id=self.subject.pk)
        if not matching(scope).exists():
            raise RedeliveryScopeError("There is no failed delivery to send again.")
        redelivery = service.redeliver(scope, requested_by=self.request.user)
        self.note("webhook.redeliver_failed", matched=redelivery.matched_count)
        self.note("redelivery.create", redelivery, **redelivery.scope)
        return self.done(
            f"{bounded(redelivery.matched_count)} deliveries are sent again.",
            self.url_of(redelivery),
        )

    def warnings(self) -> list[str]:
        return warnings_of(Scope(webhook_id=self.subject.pk))


class NewWebhookForm(forms.Form):
    is_platform = forms.BooleanField(
        required=False,
        label="Platform webhook",
        help_text="Receives every owner's events and has no owner.",
    )
    owner = forms.EmailField(required=False, help_text="The owner's e-mail address.")
    name = forms.CharField(max_length=200)
    url = forms.CharField(label="URL", max_length=2048)
    events = PatternsField(
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Event types or patterns, one a line: project.created, project.*, *",
    )

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if data.get("is_platform"):
            data["owner"] = None
        elif email := data.get("owner"):
            data["owner"] = get_user_model().objects.filter(email__iexact=email).first()
            if data["owner"] is None:
                self.add_error("owner", "No user has this address.")
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
