"""The settings of a webhook as a form."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

from django import forms

from webhooks import catalog
from webhooks.admin.look import Select, Textarea, TextInput
from webhooks.doors.setting_fields import (
    CurrentForm,
    FilterField,
    HeadersField,
    NumbersField,
    PathsField,
    VersionField,
)
from webhooks.errors import UrlRefusedError
from webhooks.models import Webhook
from webhooks.models.webhook import SETTING_NAMES
from webhooks.pace.bounds import MAX_PATTERNS, length_problem
from webhooks.registry.changes import check_headers_stay, policy_problem
from webhooks.wire.url_rules import accept_url


def check_length(value: Sized, most: int) -> None:
    """Raise ValidationError for a value that is too long."""
    if problem := length_problem(value, most):
        raise forms.ValidationError(problem)


class PatternsField(forms.CharField):
    """A field for event types and patterns, one per line or separated by commas."""

    widget = Textarea

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) else "\n".join(value or ())

    def to_python(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return list(value)
        patterns = (super().to_python(value) or "").replace(",", " ").split()
        check_length(patterns, MAX_PATTERNS)
        return patterns

    def has_changed(self, initial: Any, data: Any) -> bool:
        return set(initial or ()) != set(self.to_python(data))

    def validate(self, value: Sequence[str]) -> None:
        super().validate(" ".join(value))

    def run_validators(self, value: Any) -> None:
        """None: the length of a list says nothing; the model knows the catalogue."""


class PatternTree(forms.Widget):
    """Checkboxes for all events, each group of the catalogue and each event type."""

    template_name = "admin/webhooks/webhook/events_tree.html"
    use_fieldset = True

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context(name, value, attrs)
        chosen = set((value or "").split())
        known = {one.name for one in catalog.all_types()}
        groups = catalog.groups()
        # Those of types that the catalogue has no more stay until somebody takes them away.
        others = sorted(chosen - known - {"*", *(f"{group}.*" for group in groups)})
        return context | {"chosen": chosen, "groups": groups, "others": others}

    def value_from_datadict(self, data: Any, files: Any, name: str) -> str:
        given: list[str] = data.getlist(name) if hasattr(data, "getlist") else data.get(name, [])
        return " ".join(given)

    def value_omitted_from_data(self, data: Mapping[str, Any], files: Any, name: str) -> bool:
        return False


class AdminHeadersField(HeadersField):
    widget = Textarea


class AdminFilterField(FilterField):
    widget = Textarea


class WebhookForm(CurrentForm):
    """The settings of a webhook; custom headers are never shown, and stay if the field is empty."""

    events = PatternsField(widget=PatternTree)
    custom_headers = AdminHeadersField(required=False)
    remove_headers = forms.BooleanField(required=False, label="Remove all custom headers")

    class Meta:
        model = Webhook
        fields = SETTING_NAMES
        field_classes = {
            "retry_schedule": NumbersField,
            "filter": AdminFilterField,
            "data_fields": PathsField,
            "version": VersionField,
        }
        widgets = {
            "retry_schedule": TextInput,
            "data_fields": TextInput,
            "version": Select,
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("description", "filter", "custom_headers"):
            if name in self.fields:
                self.fields[name].widget.attrs["rows"] = 3
        if "custom_headers" not in self.fields:
            return
        names = self.instance.header_names
        sent = "unreadable ones" if names is None else ", ".join(names) or "none"
        self.fields["custom_headers"].help_text = (
            f"One “Name: value” a line; replaces those there are. Now sent: {sent}. "
            "Values are not shown. Leave empty to change nothing."
        )

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        if problem := policy_problem({name: data.get(name) for name in self.changed_data}):
            self.add_error("retry_schedule", problem)
        if "url" in self.changed_data and not (
            data.get("custom_headers") or data.get("remove_headers")
        ):
            try:
                check_headers_stay(self.instance, accept_url(data.get("url", "")))
            except UrlRefusedError:
                pass  # the model reports it
            except forms.ValidationError:
                self.add_error(
                    "custom_headers",
                    "The URL leads to another server: give the custom headers again, or remove them.",
                )
        return data
