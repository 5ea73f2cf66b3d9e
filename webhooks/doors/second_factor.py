"""Who asks for something secret enters the password again, and the code of a second factor.

The second factor is a TOTP device of django-otp with its recovery codes, where the project installs
both of its apps (docs/admin.md); without them nothing here imports django-otp.
"""

from importlib import import_module
from typing import Any, ClassVar

from django import forms
from django.apps import apps
from django.conf import settings
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from webhooks.doors.access import is_staff
from webhooks.repair.checks import SECOND_FACTOR_APPS

REFUSED = _(
    "Password or code is wrong. A code works once; after a wrong one wait, each time twice as long."
)
MAX_CODE = 20
"""Characters, with spaces between them."""
MISSING = _("Set up a second factor first; this site requires one of its staff.")


def is_installed() -> bool:
    """Whether accounts can have a second factor."""
    return all(map(apps.is_installed, SECOND_FACTOR_APPS))


def devices_of(user: Any, *, confirmed: bool = True) -> QuerySet[Any]:
    """Return the user's TOTP devices; those that are not confirmed do not count yet."""
    rows: QuerySet[Any] = apps.get_model("otp_totp.TOTPDevice").objects.devices_for_user(
        user, confirmed=confirmed
    )
    return rows


def recovery_devices_of(user: Any) -> QuerySet[Any]:
    """Return what holds the user's recovery codes."""
    rows: QuerySet[Any] = apps.get_model("otp_static.StaticDevice").objects.filter(user=user)
    return rows


def remove(user: Any) -> None:
    """Delete the user's second factor with its recovery codes."""
    recovery_devices_of(user).delete()
    for confirmed in (True, False):
        devices_of(user, confirmed=confirmed).delete()


def is_asked(user: Any) -> bool:
    """Whether this account has a second factor, and WEBHOOKS_SECOND_FACTOR lets us ask for it."""
    return settings.WEBHOOKS_SECOND_FACTOR != "off" and is_installed() and devices_of(user).exists()


def is_missing(user: Any) -> bool:
    """Whether WEBHOOKS_SECOND_FACTOR requires one that this account does not have."""
    return settings.WEBHOOKS_SECOND_FACTOR == "required" and is_staff(user) and not is_asked(user)


@sensitive_variables()
def accepts(user: Any, code: str, *, confirmed: bool = True) -> bool:
    """Check a code of the user's device, or a recovery code, and use it up.

    Before a device is confirmed, `confirmed` is False and recovery codes do not count. django-otp
    locks the device meanwhile, and doubles the pause after each wrong code.
    """
    code = code.replace(" ", "").lower()
    # Postgres refuses NUL, even in a condition.
    if not (code.isascii() and code.isalnum() and len(code) <= MAX_CODE):
        return False
    devices = devices_of(user, confirmed=confirmed).filter(digits=len(code))
    if confirmed and not (code.isdigit() and devices):
        devices = recovery_devices_of(user)
    verify = import_module("django_otp").verify_token
    return any(verify(user, device.persistent_id, code) for device in devices)


class PasswordAgainForm(forms.Form):
    """Asks for the password, which a stranger at an unlocked screen does not know, and for a code
    where the account has a second factor.
    """

    is_for_set_up: ClassVar[bool] = False
    """Whether it is the form by which those who must have a second factor get one."""

    password = forms.CharField(
        label=_("Your password"),
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
        help_text=_("Whoever finds your screen unlocked does not know it."),
    )
    code = forms.CharField(
        label=_("Code of your second factor"),
        max_length=MAX_CODE,
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code", "spellcheck": "false"}),
        help_text=_("From your authenticator, or a recovery code."),
    )

    def __init__(self, data: Any, user: Any) -> None:
        super().__init__(data)
        self._user = user
        self.was_refused = False
        """Whether the password or the code was wrong."""
        if not is_asked(user):
            del self.fields["code"]

    @sensitive_variables()
    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        # The code of a form that is refused anyway is not used up.
        if self.errors:
            return data
        password, code = data.pop("password"), data.pop("code", None)
        self.was_refused = not self._user.check_password(password) or (
            code is not None and not accepts(self._user, code)
        )
        if self.was_refused:
            wrong = _("This is not your password.") if code is None else REFUSED
            self.add_error("password", wrong)
        elif is_missing(self._user) and not self.is_for_set_up:
            self.add_error(None, MISSING)
        return data
