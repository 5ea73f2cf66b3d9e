"""Form fields for a webhook's settings, in the admin and the portal."""

import json
from datetime import date
from typing import Any, ClassVar

from django import forms
from django.contrib.postgres.forms import SimpleArrayField
from django.utils.translation import gettext_lazy as _

from webhooks import catalog
from webhooks.models import Webhook
from webhooks.models.data_fields import MAX_FIELDS
from webhooks.models.filters import MAX_BYTES
from webhooks.models.webhook import MAX_RETRIES
from webhooks.pace.bounds import length_problem
from webhooks.wire.header_rules import header_problems, read_header_lines


class CommaField(SimpleArrayField):
    """A field for values separated by commas; checks their number before it parses them."""

    most: int

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and (problem := length_problem(value.split(","), self.most)):
            raise forms.ValidationError(problem)
        return super().to_python(value)


class NumbersField(CommaField):
    """The delays of a schedule of retries."""

    most = MAX_RETRIES


class PathsField(CommaField):
    """Dotted paths in the data of events; the model checks what they say."""

    most = MAX_FIELDS


class VersionField(forms.TypedChoiceField):
    """A choice of the dates that a webhook may pin; a form that leaves it out changes nothing."""

    def __init__(self, **options: Any) -> None:
        given = {
            name: options[name] for name in ("label", "help_text", "widget") if name in options
        }
        super().__init__(
            required=False,
            choices=lambda: [(one.isoformat(),) * 2 for one in catalog.all_versions()],
            coerce=date.fromisoformat,
            empty_value=None,
            **given,
        )

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(data) and str(initial) != data


class HeadersField(forms.CharField):
    """A field for request headers, one `Name: value` per line."""

    widget = forms.Textarea

    def to_python(self, value: Any) -> Any:
        try:
            return read_header_lines(super().to_python(value) or "")
        except ValueError as problem:
            raise forms.ValidationError(str(problem)) from None

    def validate(self, value: Any) -> None:
        if problems := header_problems(value):
            raise forms.ValidationError(problems)

    def run_validators(self, value: Any) -> None:
        """None beyond validate()."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(data)


class StorableDecoder(json.JSONDecoder):
    """Reports JSON that Python or Postgres cannot hold like any other mistake."""

    def decode(self, s: str, *args: Any) -> Any:
        try:
            value = super().decode(s, *args)
            # Half of a character, which JSON may escape, cannot be written.
            json.dumps(value, ensure_ascii=False).encode()
        except RecursionError:
            raise json.JSONDecodeError("This is nested too deeply", s, 0) from None
        except json.JSONDecodeError:
            raise
        except ValueError as problem:
            raise json.JSONDecodeError(str(problem), s, 0) from None
        return value


class FilterField(forms.JSONField):
    """A condition on the data of events, as JSON; the model checks what it says."""

    default_error_messages: ClassVar[dict[str, Any]] = {"invalid": _("This is not JSON.")}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"decoder": StorableDecoder})

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) > MAX_BYTES:
            raise forms.ValidationError(f"A filter takes at most {MAX_BYTES:,} bytes.")
        return super().to_python(value)


class RevisionField(forms.CharField):
    """The revision of the settings that a page shows; it is no setting itself."""

    widget = forms.HiddenInput

    def has_changed(self, initial: Any, data: Any) -> bool:
        return False


class CurrentForm(forms.ModelForm):  # type: ignore[type-arg]
    """A settings form that refuses to overwrite what was changed since its page was shown.

    It names every setting, so that an old page would take back what others changed meanwhile. A form
    without the field `revision`, as of a program, overwrites. Validate it in a transaction: the row
    is locked until the changes are stored.
    """

    revision = RevisionField(required=False)
    is_overtaken = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["revision"] = self.instance.revision

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        rows = Webhook.objects.select_for_update(no_key=True)
        stored = rows.filter(pk=self.instance.pk, deleted_at=None).first()
        if stored is None:
            raise forms.ValidationError(_("The webhook is deleted: make a new one."))
        if "revision" not in self.data or data.get("revision") == str(stored.revision):
            if data.get("custom_headers") and data.get("remove_headers"):
                self.add_error(
                    "custom_headers",
                    _("Give custom headers, or remove those there are: either, not both."),
                )
            return data
        # Unbound, it shows the present values and not the posted ones.
        self.is_overtaken, self.is_bound = True, False
        self.instance = stored
        self.initial = forms.model_to_dict(stored) | {"revision": stored.revision}
        self.errors.clear()
        raise forms.ValidationError(
            _("The settings were changed meanwhile. These are the present ones: change them again.")
        )


def changes_of(form: forms.ModelForm) -> dict[str, Any]:  # type: ignore[type-arg]
    """Return the changes of a settings form as arguments of service.update_webhook().

    The form has the fields `custom_headers` and `remove_headers` beside those of the model.
    """
    names = set(form.changed_data) - {"custom_headers", "remove_headers"}
    changes = {name: form.cleaned_data[name] for name in names}
    if form.cleaned_data.get("remove_headers"):
        changes["headers"] = {}
    elif form.cleaned_data.get("custom_headers"):
        changes["headers"] = form.cleaned_data["custom_headers"]
    return changes
