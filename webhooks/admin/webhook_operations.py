"""The operations on a webhook besides editing it."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.urls import reverse

from webhooks import catalog, service
from webhooks.admin.operations import Operation
from webhooks.admin.secrets import SecretOperation
from webhooks.admin.webhook_pages import count_failed, name_actors
from webhooks.doors import access
from webhooks.errors import RedeliveryScopeError, WebhookNotSendingError
from webhooks.figures import present
from webhooks.figures.display import bounded
from webhooks.models import PortalLink
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.registry.portal_links import facts_of
from webhooks.registry.switch import DELETED
from webhooks.repair import audit_log
from webhooks.repair.redelivery_scope import Scope, matching, warnings_of
from webhooks.workbench.test_send import Tryout

SHOWN_TESTS = 10


class TryNow(Operation):
    name = "try-now"
    deed = access.CHANGE_WEBHOOK
    title = "Try now"
    text = (
        "The next delivery is sent at once instead of waiting for the next probe. If it succeeds, the "
        "breaker closes and the others follow; if it fails, the breaker opens again."
    )
    button = "Try now"

    def act(self, form: forms.Form) -> Any:
        service.try_now(self.subject)
        self.note("webhook.try_now", breaker_state=[self.subject.breaker_state, "closed"])
        return self.done("The next delivery goes out now; its result appears below in a moment.")


class TestForm(forms.Form):
    event_type = forms.ChoiceField(
        required=False,
        initial="webhook.test",
        help_text="Its example is sent.",
        choices=lambda: [
            (group, [(one.name, one.name) for one in types])
            for group, types in catalog.groups().items()
        ],
    )


class TestWebhook(Operation):
    name = "test"
    deed = access.CHANGE_WEBHOOK
    title = "Send a test request"
    text = (
        "One signed request with an example goes out at once; a header, X-Webhook-Test, says what it "
        "is. It is not retried and no delivery of the log, but the history keeps its result. A "
        "success closes an open breaker."
    )
    button = "Send now"
    # It waits for a foreign server.
    is_atomic = False
    form_class = TestForm
    template = "admin/webhooks/webhook/test.html"
    tryout: Tryout | None = None

    def act(self, form: forms.Form) -> Any:
        event_type = form.cleaned_data["event_type"] or "webhook.test"
        self.tryout = service.test_webhook(self.subject, event_type)
        self.note("webhook.test", **self.tryout.facts)
        return self.ask(form)

    def context(self) -> dict[str, Any]:
        earlier = list(audit_log.history(self.subject).filter(action="webhook.test")[:SHOWN_TESTS])
        name_actors(earlier)
        return {"tryout": self.tryout, "earlier": earlier}


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
    send_missed = forms.BooleanField(required=False)


class EnableWebhook(Operation):
    name = "enable"
    deed = access.CHANGE_WEBHOOK
    title = "Enable the webhook"
    text = "It starts as if it had never failed, with one request at a time."
    button = "Enable"
    form_class = EnableForm
    template = "admin/webhooks/webhook/enable.html"

    def build_form(self, data: Any = None) -> forms.Form:
        """Offer what it missed only if there is something, to those who may redeliver."""
        form = super().build_form(data)
        self.missed = service.count_missed(self.subject)
        if self.missed and access.may(self.request.user, access.REDELIVER):
            plural = "s" if self.missed != 1 else ""
            form.fields[
                "send_missed"
            ].label = f"Also send the {bounded(self.missed)} event{plural} that it missed"
        else:
            del form.fields["send_missed"]
        return form

    def context(self) -> dict[str, Any]:
        return {"missed": self.missed, "waiting": present.waiting(self.subject)}

    def act(self, form: forms.Form) -> Any:
        was, reason = self.subject.active, self.subject.disabled_reason
        enabled = service.enable(
            self.subject,
            send=form.cleaned_data["send"],
            send_missed=form.cleaned_data.get("send_missed", False),
            requested_by=self.request.user,
        )
        self.note(
            "webhook.enable",
            active=[was, True],
            disabled_reason=[reason, ""],
            waiting=form.cleaned_data["send"],
        )
        told = f"{self.subject.name} is enabled; {bounded(enabled.waiting)} deliveries wait to be sent."
        if enabled.replay is None:
            return self.done(told)
        self.note("redelivery.create", enabled.replay, **enabled.replay.scope)
        told += f" What it missed is sent, too: {bounded(enabled.missed)}."
        return self.done(told, self.url_of(enabled.replay))


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
        if not service.delete_webhook(self.subject):
            raise WebhookNotSendingError(DELETED)
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
