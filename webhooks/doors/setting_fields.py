"""The field of a webhook's filter in forms of the admin and the portal."""

import json
from typing import Any, ClassVar

from django import forms
from django.utils.translation import gettext_lazy as _

from webhooks.models.filters import MAX_BYTES


class ShallowDecoder(json.JSONDecoder):
    """Reports JSON that is nested too deeply like any other mistake."""

    def decode(self, s: str, *args: Any) -> Any:
        try:
            return super().decode(s, *args)
        except RecursionError:
            raise json.JSONDecodeError("This is nested too deeply", s, 0) from None


class FilterField(forms.JSONField):
    """A condition on the data of events, as JSON; the model checks what it says."""

    default_error_messages: ClassVar[dict[str, Any]] = {"invalid": _("This is not JSON.")}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"decoder": ShallowDecoder})

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) > MAX_BYTES:
            raise forms.ValidationError(f"A filter takes at most {MAX_BYTES:,} bytes.")
        return super().to_python(value)
