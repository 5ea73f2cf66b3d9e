"""A webhook's signing secrets: rotate, revoke, and reveal, which leaves an audit entry.

Only the response to a POST by a permitted user holds a secret, and browsers must not store it.
"""

from datetime import timedelta
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from webhooks import service
from webhooks.admin.operations import Operation
from webhooks.admin.webhook_pages import UNREADABLE
from webhooks.doors import access, allowances, second_factor
from webhooks.errors import SecretRefusedError
from webhooks.models import SigningSecret

OVERLAPS = [
    ("0", "At once: receivers that know only the old secret fail from now on"),
    ("3600", "After 1 hour"),
    ("86400", "After 24 hours"),
    ("604800", "After 7 days"),
]


class RotationForm(forms.Form):
    overlap = forms.ChoiceField(
        choices=OVERLAPS,
        initial="86400",
        widget=forms.RadioSelect,
        label="When does the old secret stop signing?",
    )


class SecretOperation(Operation):
    def back_url(self) -> str:
        return self.url_of(self.subject, "secrets")

    @sensitive_variables()
    def show(
        self,
        owner: Model,
        title: str,
        values: list[tuple[str, str]],
        back_url: str,
        advice: str = "Pass the secret on by a safe way.",
    ) -> HttpResponse:
        """Respond with an object's secrets in clear text, uncached."""
        context = {
            "title": title, "original": owner, "values": values, "back_url": back_url, "advice": advice,
        }  # fmt: skip
        answer: HttpResponse = self.model_admin.render(
            self.request, "admin/webhooks/shown_secret.html", context
        )
        answer["Cache-Control"] = "no-store"
        return answer


class RotateSecret(SecretOperation):
    name = "rotate-secret"
    # The person who rotates sees the new secret.
    deed = access.ROTATE
    title = "Rotate the signing secret"
    text = (
        "A new secret signs from now on. The old one signs too until the time you choose, so that "
        "receivers can switch without losing anything."
    )
    button = "Rotate"
    form_class = RotationForm

    def act(self, form: forms.Form) -> Any:
        overlap = timedelta(seconds=int(form.cleaned_data["overlap"]))
        webhook = service.rotate_secret(self.subject, overlap=overlap)
        self.note("secret.rotate", overlap_seconds=overlap.total_seconds())
        values = [("New secret", webhook.secret)]
        return self.show(webhook, "The new signing secret", values, self.back_url())


class RevokeSecret(SecretOperation):
    name = "revoke-secrets"
    deed = access.CHANGE_WEBHOOK
    title = "Revoke the older secrets"
    text = (
        "Within a second, requests are no longer signed with them. The current secret stays; to "
        "revoke it, rotate it “at once”."
    )
    button = "Revoke"
    is_dangerous = True

    def act(self, form: forms.Form) -> Any:
        count = service.revoke_secret(self.subject)
        if not count:
            raise SecretRefusedError("There is no older secret to revoke.")
        self.note("secret.revoke", count=count)
        return self.done(f"{count} older secret{'s' if count > 1 else ''} revoked.")


class RevealForm(second_factor.PasswordAgainForm):
    reason = forms.CharField(max_length=200, help_text="The audit log shows it with your name.")
    field_order = ("reason",)


class PasswordOperation(SecretOperation):
    """An operation that asks for the password again; `form_class` is a PasswordAgainForm."""

    refusal: ClassVar[str] = "password.refuse"
    """The action that the audit log names after a wrong password or code."""
    form_class: ClassVar[Any] = second_factor.PasswordAgainForm
    template = "admin/webhooks/password_operation.html"

    @property
    def user(self) -> Any:
        return self.request.user

    def build_form(self, data: Any = None) -> forms.Form:
        form: forms.Form = self.form_class(data, self.user)
        return form

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        allowance = allowances.take_password(request, request.user)
        if not allowance.is_exceeded:
            return super().post(request, *args, **kwargs)
        seconds = allowance.reset_seconds
        messages.error(request, f"Too many password attempts; wait {seconds} seconds.")
        response = self.ask(self.build_form(), status=429)
        response["Retry-After"] = str(seconds)
        return response

    def ask(self, form: forms.Form, status: int = 200) -> HttpResponse:
        if getattr(form, "was_refused", False):
            self.note(self.refusal, self.subject or self.user)
        return super().ask(form, status)

    def warnings(self) -> list[str]:
        return [str(second_factor.MISSING)] if second_factor.is_missing(self.user) else []

    def context(self) -> dict[str, Any]:
        return {"offers_second_factor": second_factor.is_installed()}


class RevealSecret(PasswordOperation):
    name = "reveal-secrets"
    deed = access.REVEAL_SECRET
    title = "Reveal the signing secrets"
    text = "A person who knows a signing secret can forge requests. The audit log records that you looked."
    button = "Reveal"
    is_dangerous = True
    form_class = RevealForm
    refusal = "secret.refuse"

    @sensitive_variables()
    def act(self, form: forms.Form) -> Any:
        live = self.subject.secrets.live(timezone.now()).filter(scheme=SigningSecret.Scheme.HMAC)
        self.note("secret.reveal", reason=form.cleaned_data["reason"], count=live.count())
        values = [(_name(secret), secret.readable_value or UNREADABLE) for secret in live]
        return self.show(self.subject, "Signing secrets", values, self.back_url())


def _name(secret: SigningSecret) -> str:
    if secret.expires_at is None:
        return "Current secret"
    return f"Older secret, signs until {secret.expires_at:%Y-%m-%d %H:%M} UTC"
