"""The admin counts what a form holds before it looks at it."""

import time

import pytest
from django import forms
from django.core.exceptions import ValidationError

from webhooks.admin.webhook_form import PatternsField
from webhooks.doors.setting_fields import HeadersField, NumbersField

MAX_SECONDS = 0.3
PATIENCE = 3


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (PatternsField(), "a.b\n" * 250_000),
        (PatternsField(), "," * 1_000_000 + "a,b," * 101),
        (HeadersField(), "a:b\n" * 250_000),
        (NumbersField(forms.IntegerField()), "1," * 500_000),
        (NumbersField(forms.IntegerField()), "," * 1_000_000),
    ],
)
def test_long_field_is_refused_at_once(field: forms.Field, text: str) -> None:
    started_at = time.thread_time()

    with pytest.raises(ValidationError) as refusal:
        field.clean(text)

    assert time.thread_time() - started_at <= MAX_SECONDS * PATIENCE
    assert len(str(refusal.value)) < 500
