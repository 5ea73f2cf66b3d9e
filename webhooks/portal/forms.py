"""The forms of the portal."""

from contextlib import suppress
from datetime import UTC
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from webhooks import catalog
from webhooks.choices import DeliveryStatus, Form
from webhooks.doors.second_factor import PasswordAgainForm
from webhooks.doors.setting_fields import (
    CurrentForm,
    FilterField,
    HeadersField,
    NumbersField,
    PathsField,
    VersionField,
)
from webhooks.doors.times import YEARS_OF_IDS
from webhooks.figures.pages import RESPONSE_CLASSES
from webhooks.models import ApiToken, PortalLink, Webhook
from webhooks.models.data_fields import MAX_PATH_CHARACTERS
from webhooks.models.webhook import SETTING_NAMES
from webhooks.workbench.diagnosis import MAX_BODY_BYTES


class TimeInput(forms.DateTimeInput):
    """A time in UTC, to the second."""

    input_type = "datetime-local"

    def __init__(self) -> None:
        super().__init__(attrs={"step": "1"}, format="%Y-%m-%dT%H:%M:%S")


class TimeField(forms.DateTimeField):
    """A time that ids and time zones can hold."""

    widget = TimeInput

    def clean(self, value: Any) -> Any:
        moment = super().clean(value)
        if moment is None:
            return None
        # Postgres rejects UTC offsets of 16 hours and more.
        with suppress(OverflowError):
            moment = moment.astimezone(UTC)
        if moment.year not in YEARS_OF_IDS:
            raise forms.ValidationError(_("Choose a time between 1971 and 9000."))
        return moment


def _patterns() -> list[tuple[str, str]]:
    names = ["*"]
    for group, types in catalog.groups().items():
        names += [f"{group}.*", *(one.name for one in types)]
    return [(name, name) for name in names]


class NewWebhookForm(forms.Form):
    """What a webhook needs; everything else has a default."""

    name = forms.CharField(max_length=200, label=_("Name"), help_text=_("How you call it."))
    url = forms.CharField(
        max_length=2048,
        label=_("URL"),
        help_text=_("Where your server takes POST requests, https:// and all."),
        widget=forms.URLInput,
    )
    events = forms.MultipleChoiceField(
        label=_("Events"),
        choices=_patterns,
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": _("Choose at least one event type, or all.")},
    )


class SettingsForm(CurrentForm):
    """All settings of a webhook. Custom headers are written, never shown."""

    events = NewWebhookForm.base_fields["events"]
    custom_headers = HeadersField(
        required=False,
        label=_("Custom headers"),
        help_text=_(
            "One “Name: value” a line; they replace those there are. Leave it empty to change nothing."
        ),
    )
    remove_headers = forms.BooleanField(required=False, label=_("Remove all custom headers"))

    class Meta:
        model = Webhook
        fields = SETTING_NAMES
        field_classes = {
            "retry_schedule": NumbersField,
            "filter": FilterField,
            "data_fields": PathsField,
            "version": VersionField,
        }
        widgets = {"url": forms.URLInput, "retry_schedule": forms.TextInput}
        labels = {
            "name": _("Name"), "url": _("URL"), "description": _("Description"),
            "max_retries": _("Retries"), "retry_delay_seconds": _("Delay of the first retry"),
            "retry_schedule": _("Schedule of retries"), "timeout_seconds": _("Timeout"),
            "rate_limit": _("Rate limit"), "order": _("Order"), "filter": _("Filter"),
            "form": _("Form of the requests"), "data_fields": _("Fields of data"),
            "version": _("Version"), "debounce_seconds": _("Wait for later updates"),
            "batch_events": _("Events in one request"), "batch_bytes": _("Bytes in one request"),
            "batch_milliseconds": _("Wait for others"),
        }  # fmt: skip
        help_texts = {
            "max_retries": _("How often a failed delivery is tried again, 0 to 20."),
            "retry_delay_seconds": _("Seconds; doubled for each further retry."),
            "retry_schedule": _(
                "Seconds before each retry, with commas between; replaces the two settings above."
            ),
            "timeout_seconds": _("Seconds that one attempt may take, 1 to 30."),
            "rate_limit": _("Requests per second, fractions too; empty for no limit."),
            "debounce_seconds": _(
                "Seconds that an update of an object waits; later ones replace it. Empty to send each."
            ),
            "order": _("What a request waits for; events without an object wait for nothing."),
            "filter": _(
                'A condition on the data of the events, as JSON: {"amount": {"gte": 10000}}. Empty for '
                "all events."
            ),
            "batch_events": _("At most, 1 to 1,000. More than 1 sends lists, one event or many."),
            "batch_bytes": _("At most; one event may be larger."),
            "batch_milliseconds": _("Milliseconds that an event waits for others, 0 to 5,000."),
            "form": _("The body of the requests: the usual envelope, less of it, or CloudEvents."),
            "version": _("The shape of data that it gets: the newest one of this date."),
            "data_fields": _(
                "For the form “fields”: what is sent of data, with commas between, such as id, name."
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = {name for name, _label in _patterns()}
        self.other_events = sorted(set(self.instance.events) - known)
        """Those of types that the catalogue has no more stay until somebody takes them away."""
        choices = [*_patterns(), *((name, name) for name in self.other_events)]
        self.fields["events"].choices = choices  # type: ignore[attr-defined]
        self.fields["description"].widget.attrs["rows"] = 3
        self.fields["custom_headers"].widget.attrs["rows"] = 3
        self.fields["filter"].widget.attrs["rows"] = 3
        # The service checks them, together with everything else.
        self.fields["url"].validators = []

    def _post_clean(self) -> None:
        """Leave the instance alone: service.update_webhook() changes and checks it."""


class RenderForm(forms.Form):
    """How an event is to be looked at."""

    form = forms.ChoiceField(label=_("Form of the requests"), choices=Form.choices)
    data_fields = PathsField(
        forms.CharField(max_length=MAX_PATH_CHARACTERS), required=False, label=_("Fields of data")
    )
    version = VersionField(label=_("Version"))


class EnableForm(forms.Form):
    send = forms.ChoiceField(
        label=_("What becomes of that which waited?"),
        widget=forms.RadioSelect,
        initial="recent",
        choices=[
            ("recent", _("Send what is younger than three days, cancel the rest")),
            ("all", _("Send everything")),
            ("none", _("Cancel everything")),
        ],
    )
    send_missed = forms.BooleanField(
        required=False, label=_("Also send what it missed while it was disabled")
    )
    is_tested = forms.BooleanField(
        required=False,
        initial=True,
        label=_("Send a test request first, and enable only if it succeeds"),
    )


class RotationForm(forms.Form):
    overlap = forms.ChoiceField(
        label=_("When does the old secret stop signing?"),
        widget=forms.RadioSelect,
        initial="86400",
        choices=[
            ("86400", _("After 24 hours")),
            ("604800", _("After 7 days")),
            ("3600", _("After 1 hour")),
            ("0", _("At once: receivers that know only the old secret fail from now on")),
        ],
    )


class DeliveryFilterForm(forms.Form):
    """The filters of the list of deliveries, which stand in its URL."""

    webhook = forms.ChoiceField(required=False, label=_("Webhook"))
    status = forms.ChoiceField(
        required=False, label=_("Status"), choices=[("", _("Any")), *DeliveryStatus.choices]
    )
    type = forms.ChoiceField(required=False, label=_("Event type"))
    response = forms.ChoiceField(
        required=False,
        label=_("Response"),
        choices=[
            ("", _("Any")),
            *((name, name) for name in RESPONSE_CLASSES if name != "none"),
            ("none", _("No response")),
        ],
    )
    since = TimeField(required=False, label=_("From (UTC)"))
    until = TimeField(required=False, label=_("To (UTC)"))
    object = forms.CharField(
        required=False,
        max_length=100,
        label=_("Object id"),
        help_text=_("Of a project, a session, a recording or an agent."),
    )

    def __init__(self, data: Any, webhooks: list[tuple[str, str]]) -> None:
        super().__init__(data)
        any_one = [("", _("Any"))]
        self.fields["webhook"].choices = [*any_one, *webhooks]  # type: ignore[attr-defined]
        names = [(one.name, one.name) for one in catalog.all_types()]
        self.fields["type"].choices = [*any_one, *names]  # type: ignore[attr-defined]


class RecoverForm(forms.Form):
    """Which deliveries to send once more, or which events that never came."""

    kind = forms.ChoiceField(
        label=_("What?"),
        widget=forms.RadioSelect,
        initial="failed",
        choices=[
            ("failed", _("Deliveries that failed")),
            (
                "missing",
                _("Events that it never got: from before it existed, or while it was disabled"),
            ),
        ],
    )
    since = TimeField(label=_("Since (UTC)"))
    until = TimeField(required=False, label=_("Until (UTC)"))


class ExampleForm(forms.Form):
    """To which webhook an example goes."""

    webhook = forms.ChoiceField(label=_("Webhook"))

    def __init__(self, data: Any, webhooks: list[tuple[str, str]]) -> None:
        super().__init__(data)
        self.fields["webhook"].choices = webhooks  # type: ignore[attr-defined]


class TestForm(forms.Form):
    event_type = forms.ChoiceField(
        label=_("Event type"),
        initial="webhook.test",
        choices=lambda: [(one.name, one.name) for one in catalog.all_types()],
    )


class CheckForm(forms.Form):
    """A request as the receiver's developer has it, and the signature that his code made."""

    webhook = forms.ChoiceField(label=_("Webhook"))
    headers = forms.CharField(
        max_length=20_000,
        label=_("Headers of the request"),
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
        help_text=_("One “Name: value” a line, as your server logged them; or as JSON."),
    )
    body = forms.CharField(
        max_length=MAX_BODY_BYTES,
        strip=False,
        required=False,
        label=_("Body of the request"),
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
        help_text=_("Exactly the text that your code signs."),
    )
    computed = forms.CharField(
        max_length=500,
        required=False,
        label=_("The signature that your code computed"),
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
        help_text=_("With it we can say which mistake leads there. Never paste the secret."),
    )

    def __init__(self, data: Any, webhooks: list[tuple[str, str]]) -> None:
        super().__init__(data)
        self.fields["webhook"].choices = webhooks  # type: ignore[attr-defined]


class NewTokenForm(PasswordAgainForm):
    name = forms.CharField(max_length=100, label=_("Name"), help_text=_("What it is for."))
    scopes = forms.MultipleChoiceField(
        label=_("Scopes"),
        choices=ApiToken.Scope.choices,
        widget=forms.CheckboxSelectMultiple,
        initial=["read"],
    )
    days = forms.IntegerField(
        min_value=1, max_value=365, initial=90, label=_("Days until it expires")
    )
    field_order = ("name", "scopes", "days")


class NewLinkForm(forms.Form):
    webhook = forms.ChoiceField(required=False, label=_("Webhook"))
    capabilities = forms.MultipleChoiceField(
        label=_("What may be done there?"),
        choices=PortalLink.Capability.choices,
        widget=forms.CheckboxSelectMultiple,
        initial=["view"],
        required=False,
    )
    hours = forms.IntegerField(
        min_value=1, max_value=720, initial=8, label=_("Hours until the session ends")
    )

    def __init__(self, data: Any, webhooks: list[tuple[str, str]]) -> None:
        super().__init__(data)
        self.fields["webhook"].choices = [("", _("All webhooks")), *webhooks]  # type: ignore[attr-defined]
