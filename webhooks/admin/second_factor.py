"""The pages of a person's own second factor: set up, confirm, remove."""

from base64 import b32encode
from typing import Any

from django import forms
from django.apps import apps
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.debug import sensitive_variables

from webhooks.admin.secrets import PasswordOperation
from webhooks.doors import access, second_factor

RECOVERY_CODES = 10


class FactorForm(second_factor.PasswordAgainForm):
    is_for_set_up = True


class FactorOperation(PasswordOperation):
    deed = access.OWN_SECOND_FACTOR
    form_class = FactorForm
    template = "admin/webhooks/operation.html"

    def find(self, object_id: str | None) -> None:
        if not second_factor.is_installed():
            raise Http404

    def back_url(self) -> str:
        return reverse("admin:index")

    def note(self, action: str, subject: Any = None, **changes: Any) -> None:
        super().note(action, self.user, **changes)


class SetUp(FactorOperation):
    title = "Set up a second factor"
    text = (
        "An authenticator on another device then shows codes, and this site asks for one where it asks "
        "for your password again."
    )
    button = "Set up"

    @sensitive_variables()
    def act(self, form: forms.Form) -> Any:
        user = self.user
        second_factor.devices_of(user, confirmed=False).delete()
        devices = apps.get_model("otp_totp.TOTPDevice").objects
        device = devices.create(user=user, name="authenticator", confirmed=False)
        return self.ask_for_first_code(CodeForm(), device)

    def ask_for_first_code(self, form: forms.Form, device: Any = None, status: int = 200) -> Any:
        """Ask for a code of the new authenticator; its key is shown once."""
        key = device and b32encode(device.bin_key).decode()
        context = {"title": self.title, "form": form, "device": device, "key": key}
        template = "admin/webhooks/new_factor.html"
        answer = self.model_admin.render(self.request, template, context, status=status)
        answer["Cache-Control"] = "no-store"
        return answer


class CodeForm(forms.Form):
    code = forms.CharField(
        max_length=second_factor.MAX_CODE,
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code"}),
    )


class Confirm(SetUp):
    """The answer to SetUp: a code proves that the authenticator has the key."""

    refusal = "secondfactor.refuse"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:webhooks_webhook_second-factor"))

    def build_form(self, data: Any = None) -> forms.Form:
        return CodeForm(data)

    def ask(self, form: forms.Form, status: int = 200) -> Any:
        return self.ask_for_first_code(form, status=status)

    def context(self) -> dict[str, Any]:
        return {}

    @sensitive_variables()
    def act(self, form: forms.Form) -> Any:
        user = self.user
        new = second_factor.devices_of(user, confirmed=False).first()
        if new is None or second_factor.devices_of(user).exists():
            return self.get(self.request)
        if not second_factor.accepts(user, form.cleaned_data["code"], confirmed=False):
            form.add_error("code", "This code does not fit; enter the next one.")
            self.note(self.refusal)
            return self.ask(form, status=422)
        second_factor.devices_of(user, confirmed=False).update(confirmed=True)
        second_factor.recovery_devices_of(user).delete()
        recovery = apps.get_model("otp_static.StaticDevice").objects.create(
            user=user, name="recovery codes"
        )
        codes = [recovery.token_set.model.random_token() for _ in range(RECOVERY_CODES)]
        for code in codes:
            recovery.token_set.create(token=code)
        self.note("secondfactor.add")
        values = [("Each counts once, in place of a code", " ".join(codes))]
        return self.show(
            user,
            "Your recovery codes",
            values,
            self.back_url(),
            "Keep them where you find them without your authenticator.",
        )


class Remove(FactorOperation):
    title = "Remove your second factor"
    button = "Remove"
    is_dangerous = True

    @property
    def text(self) -> str:  # type: ignore[override]
        found = second_factor.recovery_devices_of(self.user)
        codes = sum(one.token_set.count() for one in found)
        return (
            f"You have an authenticator and {codes} recovery codes. To get new ones, remove both "
            "and set up a second factor again."
        )

    def act(self, form: forms.Form) -> Any:
        second_factor.remove(self.user)
        self.note("secondfactor.remove")
        return self.done("Your second factor is removed.")


def own_factor(request: HttpRequest, **options: Any) -> Any:
    """Show the page that sets up a person's second factor, or removes the one there is."""
    has_one = second_factor.is_installed() and second_factor.devices_of(request.user).exists()
    return (Remove if has_one else SetUp).as_view(**options)(request)


def confirm(request: HttpRequest, **options: Any) -> Any:
    """Confirm a new authenticator by its first code, and show the recovery codes."""
    return Confirm.as_view(**options)(request)


PAGES = (
    ("second-factor/", own_factor, "second-factor"),
    ("second-factor/confirm/", confirm, "second-factor-confirm"),
)
"""Path, view and name of each, below the list of webhooks."""
