"""The form that selects the deliveries of a redelivery."""

from datetime import datetime
from typing import Any

from django import forms

from webhooks import catalog
from webhooks.admin.filters import codes_of, webhook_of
from webhooks.choices import DeliveryStatus, FailureKind
from webhooks.doors import owners
from webhooks.doors.times import parse_moment
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import DELIVERY_PREFIX, EVENT_PREFIX, parse_public_id
from webhooks.repair.redelivery_scope import REPEATABLE, Scope

MAX_SELECTED = 1000


class ScopeForm(forms.Form):
    """A selection of deliveries; its fields have the names of the delivery list's filters."""

    webhook = forms.CharField(required=False, help_text="Id (whk_…) or name")
    owner = forms.CharField(required=False, help_text="Name or id")
    event = forms.CharField(required=False, help_text="Id of one event (evt_…)")
    type = forms.ChoiceField(required=False, label="Event type")
    status = forms.MultipleChoiceField(
        required=False,
        widget=forms.CheckboxSelectMultiple,
        choices=[choice for choice in DeliveryStatus.choices if choice[0] in REPEATABLE],
    )
    code = forms.CharField(
        required=False, label="Response code", help_text="Of the last attempt: 503, or 5xx"
    )
    kind = forms.ChoiceField(
        required=False, label="Failure", choices=[("", "any"), *FailureKind.choices]
    )
    since = forms.CharField(
        required=False, help_text="How long ago, such as 6h or 7d, or 2026-11-24T08:00Z"
    )
    until = forms.CharField(required=False, help_text="The same; empty for now")
    limit = forms.IntegerField(
        required=False, min_value=1, help_text="Maximum number of deliveries, the oldest first"
    )
    rate_limit = forms.FloatField(
        required=False, min_value=0.001, max_value=10_000, label="Deliveries per second"
    )
    deliveries = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = [one.name for one in catalog.all_types()]
        self.fields["type"].choices = [("", "any"), *((name, name) for name in names)]  # type: ignore[attr-defined]

    def clean_webhook(self) -> Any:
        return _looked_up(webhook_of, self.cleaned_data["webhook"], "There is no such webhook.")

    def clean_owner(self) -> Any:
        return _looked_up(
            owners.key_of_owner,
            self.cleaned_data["owner"],
            "No owner has this name or id, or several have it.",
        )

    def clean_event(self) -> Any:
        return _parsed(self.cleaned_data["event"], EVENT_PREFIX)

    def clean_code(self) -> Any:
        return _looked_up(
            codes_of, self.cleaned_data["code"], "This is no code such as 503 or 5xx."
        )

    def clean_since(self) -> datetime | None:
        return self._time("since")

    def clean_until(self) -> datetime | None:
        return self._time("until")

    def clean_deliveries(self) -> Any:
        given = self.cleaned_data["deliveries"]
        texts = [text for text in given.split(",") if text.strip()]
        if given and not texts:
            raise forms.ValidationError("Select at least one delivery.")
        if len(texts) > MAX_SELECTED:
            raise forms.ValidationError(f"Select at most {MAX_SELECTED} deliveries.")
        return tuple(_parsed(text, DELIVERY_PREFIX) for text in texts)

    def clean(self) -> None:
        """Refuse a form without a status: only a link that names none means what failed."""
        super().clean()
        is_chosen = "status" in self.data or "deliveries" in self.data
        data = self.cleaned_data
        if is_chosen and not (self.errors or data["deliveries"] or data["status"]):
            self.add_error("status", "Choose at least one status.")

    def _time(self, name: str) -> datetime | None:
        value = self.cleaned_data[name].strip()
        try:
            return parse_moment(value) if value else None
        except ValueError as problem:
            raise forms.ValidationError(f"{problem}.") from None

    def scope(self) -> Scope:
        """Return the scope; raises RedeliveryScopeError if it is unlimited."""
        data = self.cleaned_data
        selected = data["deliveries"]
        default = sorted(REPEATABLE) if selected else [DeliveryStatus.FAILED.value]
        scope = Scope(
            delivery_ids=selected or None,
            webhook_id=data["webhook"],
            owner_id=data["owner"],
            event_id=data["event"],
            event_type=data["type"] or None,
            statuses=tuple(data["status"] or default),
            failure_kind=data["kind"] or None,
            response_codes=data["code"],
            since=data["since"],
            until=data["until"],
            limit=data["limit"],
        )
        scope.check()
        return scope


def _looked_up(look_up: Any, value: str, problem: str) -> Any:
    value = value.strip()
    found = look_up(value) if value else None
    if value and found is None:
        raise forms.ValidationError(problem)
    return found


def _parsed(text: str, prefix: str) -> Any:
    text = text.strip()
    try:
        return parse_public_id(text, prefix) if text else None
    except PublicIdInvalidError as problem:
        raise forms.ValidationError(str(problem)) from None
