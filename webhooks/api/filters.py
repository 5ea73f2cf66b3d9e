"""Query filters of lists. Every list has the time range of ApiFilters."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.utils import timezone
from django_filters import BaseInFilter, ChoiceFilter, IsoDateTimeFilter, TypedChoiceFilter
from django_filters.fields import BaseCSVField, IsoDateTimeField
from django_filters.rest_framework import FilterSet
from drf_spectacular.utils import extend_schema_field

from webhooks import catalog
from webhooks.api.errors import ParametersInvalidError
from webhooks.doors.times import YEARS_OF_IDS
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import first_id_of, parse_public_id

Choices = Sequence[tuple[str, str]] | Callable[[], Sequence[tuple[str, str]]]


@extend_schema_field({"type": "boolean"})
class BooleanFilter(TypedChoiceFilter):  # type: ignore[misc]
    """`true` or `false`; django-filter's own takes anything else for neither."""

    def __init__(self, **options: Any) -> None:
        options |= {"choices": [("true", "true"), ("false", "false")], "empty_value": None}
        super().__init__(coerce=lambda text: text == "true", **options)


class OneOfFilter(ChoiceFilter):  # type: ignore[misc]
    """One of some values; a refusal names them all."""

    def __init__(self, choices: Choices, **options: Any) -> None:
        super().__init__(choices=choices, **options)

    @property
    def field(self) -> Any:
        field = super().field
        names = ", ".join(str(value) for value, _ in self.extra_choices())
        field.error_messages["invalid_choice"] = f"%(value)s is none of {names}."
        return field

    def extra_choices(self) -> Sequence[tuple[str, str]]:
        choices = self.extra["choices"]
        return choices() if callable(choices) else choices  # type: ignore[no-any-return]


class SeveralField(BaseCSVField):  # type: ignore[misc]
    """Some values, none of them empty."""

    def clean(self, value: Any) -> Any:
        if value and not all(value):
            raise ValidationError("A value between the commas is missing.")
        return super().clean(value)


class AnyOfFilter(BaseInFilter, OneOfFilter):  # type: ignore[misc]
    """One or more of some values, separated by commas."""

    base_field_class = SeveralField

    def __init__(self, choices: Choices, *, label: str = "", **options: Any) -> None:
        text = f"{label} Separate several by commas.".lstrip()
        super().__init__(choices=choices, help_text=text, **options)


def _event_types() -> list[tuple[str, str]]:
    return [(event_type.name, event_type.name) for event_type in catalog.all_types()]


@extend_schema_field({"type": "string"})
class EventTypesFilter(AnyOfFilter):
    """Names of the catalogue, which is filled after this module is read."""

    def __init__(self, **options: Any) -> None:
        super().__init__(choices=_event_types, **options)


class UtcField(IsoDateTimeField):  # type: ignore[misc]
    """A time without a zone is one in UTC, as in bodies, whatever the project's TIME_ZONE is."""

    def to_python(self, value: Any) -> Any:
        with timezone.override(UTC):
            return super().to_python(value)


class TimeFilter(IsoDateTimeFilter):  # type: ignore[misc]
    field_class = UtcField


class NoFilters(FilterSet):  # type: ignore[misc]
    """Of a list that is short and no table."""


class ApiFilters(FilterSet):  # type: ignore[misc]  # django-filter is untyped
    """The filters of a list; where it has none of its own, these."""

    since = TimeFilter(method="by_time", label="Created at this time or later.")
    until = TimeFilter(method="by_time", label="Created before this time.")

    by_index: ClassVar[frozenset[str]] = frozenset({"since", "until"})
    """Filters that an index answers; with any other a page looks at a bounded number of rows."""

    def by_time(self, rows: QuerySet[Any], name: str, value: datetime) -> QuerySet[Any]:
        # Ids are time-ordered, so the primary key answers it.
        first_id = first_id_of(in_utc(name, value))
        return rows.filter(**{"id__gte" if name == "since" else "id__lt": first_id})

    def without_scanning(self) -> QuerySet[Any] | None:
        """Return the rows by the indexed filters alone; None where no other is in use."""
        used = {name for name, value in self.form.cleaned_data.items() if value not in (None, "")}
        if used <= self.by_index:
            return None
        rows = self.queryset.all()
        for name in used & self.by_index:
            rows = self.filters[name].filter(rows, self.form.cleaned_data[name])
        return rows  # type: ignore[no-any-return]


def in_utc(name: str, moment: datetime) -> datetime:
    """Return the time of a query parameter in UTC: Postgres knows no zone more than 16 hours away.

    Raises ParametersInvalidError for years that ids and time zones cannot hold.
    """
    if moment.year not in YEARS_OF_IDS:
        raise ParametersInvalidError({name: ["Choose a time between 1971 and 9000."]})
    return moment.astimezone(UTC)


def parse_parameter(name: str, value: str, prefix: str) -> UUID:
    """Return the id in a query parameter; raises ParametersInvalidError."""
    try:
        return parse_public_id(value, prefix)
    except PublicIdInvalidError as problem:
        raise ParametersInvalidError({name: [str(problem)]}) from None
