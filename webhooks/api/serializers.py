"""Serializers that spell names in camelCase and refuse unknown fields."""

from collections.abc import Iterator, Mapping
from datetime import UTC
from functools import cache
from itertools import islice
from typing import Any
from uuid import UUID

from django.db.models import DateField, DateTimeField, Manager, Model
from drf_spectacular.utils import extend_schema_field
from rest_framework import ISO_8601, serializers
from rest_framework.exceptions import ErrorDetail

from webhooks.api.names import camel_case
from webhooks.choices import FailureKind
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import parse_public_id
from webhooks.models.owner_keys import MOST_BIGINT, MOST_CHARACTERS, SQL_TYPE
from webhooks.pace.bounds import (
    MAX_ITEMS,
    MAX_NAME_CHARACTERS,
    MAX_PROBLEMS,
    length_problem,
    shortened,
)


class StrictFields:
    # A comment: what stands in the docstrings of serializers is read by those who call the API.
    # Spells declared fields in camelCase on the wire, and refuses fields that are not declared. Only
    # names that are declared are touched: event data, which is a value, never is.

    def get_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = super().get_fields()  # type: ignore[misc]
        renamed = {}
        for name, field in fields.items():
            wire_name = camel_case(name)
            if wire_name != name and field.source is None:
                field.source = name
            renamed[wire_name] = field
        return renamed

    def to_internal_value(self, data: Any) -> Any:
        problems: dict[str, Any] = {}
        if isinstance(data, Mapping):
            found = islice(self._problems_of(data), MAX_PROBLEMS)
            problems = {shortened(name, MAX_NAME_CHARACTERS): problem for name, problem in found}
            # A value with a problem is not walked again.
            known = self.fields.keys() & data.keys() - problems.keys()  # type: ignore[attr-defined]
            data = {name: value for name, value in data.items() if name in known}
        try:
            value = super().to_internal_value(data)  # type: ignore[misc]
        except serializers.ValidationError as refusal:
            if isinstance(refusal.detail, Mapping):
                # A field with a problem was left out, so it is not missing.
                raise serializers.ValidationError({**refusal.detail, **problems}) from None
            raise
        if problems:
            raise serializers.ValidationError(problems)
        return value

    def _problems_of(self, data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        # Known fields first: they are few, while a body may hold any number of unknown ones.
        for name, field in self.fields.items():  # type: ignore[attr-defined]
            if name not in data:
                continue
            if field.read_only:
                yield name, [ErrorDetail("This cannot be set; leave it out.", "read_only")]
            elif wrong := _wrong_type(field, data[name]):
                yield name, wrong
        for name in data:
            if name not in self.fields:  # type: ignore[attr-defined]
                yield name, [ErrorDetail(self._unknown(), "unknown_field")]

    def _unknown(self) -> str:
        names = [name for name, field in self.fields.items() if not field.read_only]  # type: ignore[attr-defined]
        known = f"known are {', '.join(names)}" if names else "there are none"
        return f"There is no such field; {known}."


class TimeField(serializers.DateTimeField):
    """A moment in ISO 8601, in UTC, whatever the project's TIME_ZONE and REST_FRAMEWORK say."""

    def __init__(self, **options: Any) -> None:
        super().__init__(format=ISO_8601, input_formats=[ISO_8601], default_timezone=UTC, **options)


class DayField(serializers.DateField):
    """A date in ISO 8601, whatever REST_FRAMEWORK says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(format=ISO_8601, input_formats=[ISO_8601], **options)


JSON_TYPES: list[tuple[tuple[type[Any], ...], tuple[type[Any], ...], str]] = [
    ((serializers.BooleanField,), (bool,), "true or false"),
    ((serializers.IntegerField, serializers.FloatField), (int, float), "a number"),
    (
        (
            serializers.CharField,
            serializers.ChoiceField,
            serializers.UUIDField,
            serializers.DateTimeField,
        ),
        (str,),
        "a text",
    ),
]
"""The JSON type of each field; the framework also accepts `0` as text and `"yes"` as true."""


def _wrong_type(field: Any, value: Any) -> Any:
    """Return the problem with a value's type, nested like the value, or None."""
    if value is None:
        return None
    longest = getattr(field, "max_length", None)
    if isinstance(field, serializers.ListField) and isinstance(value, list):
        return _too_long(value, longest) or _wrong_parts(
            (str(index), _wrong_type(field.child, one)) for index, one in enumerate(value)
        )
    if isinstance(field, BoundedDictField) and isinstance(value, Mapping):
        return _too_long(value, longest) or _wrong_parts(
            (name, _wrong_type(field.child, one)) for name, one in value.items()
        )
    # The text as sent: the framework measures it without surrounding spaces.
    if isinstance(field, serializers.CharField) and longest and len(str(value)) > longest:
        return [ErrorDetail(f"This has more than {longest:,} characters.", "max_length")]
    for fields, types, words in JSON_TYPES:
        if isinstance(field, fields):
            is_right = isinstance(value, types) and (bool in types or not isinstance(value, bool))
            return None if is_right else [ErrorDetail(f"This is {words}.", "invalid")]
    return None


def _too_long(value: Any, longest: int | None) -> list[ErrorDetail] | None:
    problem = length_problem(value, MAX_ITEMS if longest is None else longest)
    return [ErrorDetail(problem, "max_length")] if problem else None


def _wrong_parts(parts: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    wrong = ((shortened(name, MAX_NAME_CHARACTERS), problem) for name, problem in parts if problem)
    return dict(islice(wrong, MAX_PROBLEMS))


class BoundedDictField(serializers.DictField):
    """An object with any names, at most `max_length` of them."""

    def __init__(self, *, max_length: int, **options: Any) -> None:
        self.max_length = max_length
        super().__init__(**options)


@extend_schema_field({"type": "object", "additionalProperties": True})
class FilterField(serializers.JSONField):
    """A condition on the data of events, as it was sent; webhooks/models/filters.py reads it."""


class ApiSerializer(StrictFields, serializers.Serializer[Any]):
    pass


class ApiModelSerializer(StrictFields, serializers.ModelSerializer[Any]):
    serializer_field_mapping = {
        **serializers.ModelSerializer.serializer_field_mapping,
        DateTimeField: TimeField,
        DateField: DayField,
    }


@cache
def shared(serializer_class: type[ApiSerializer]) -> ApiSerializer:
    """Return one serializer for all requests, for run_validation() and to_representation().

    Only for serializers whose fields need no context. Each new instance copies all fields, which
    takes longer than the rest of a request.
    """
    return serializer_class()


class NoInput(ApiSerializer):
    """The body of an action without parameters: empty, or `{}`."""


class FailureKindField(serializers.CharField):
    """The kind of a failure, as owners may see it.

    Owners must not learn which names exist in our network: a name with a private address counts as
    not found, and the error's text is the same for both.
    """

    def to_representation(self, value: Any) -> str:
        kind = str(value)
        return str(FailureKind.DNS) if kind == FailureKind.BLOCKED_ADDRESS else kind


def owner_key_field(**options: Any) -> Any:
    """Return a field for an owner's id, of the kind that WEBHOOKS_OWNER_KEY names."""
    if SQL_TYPE == "bigint":
        options |= {} if options.get("read_only") else {
            "min_value": -MOST_BIGINT, "max_value": MOST_BIGINT
        }  # fmt: skip
        return serializers.IntegerField(**options)
    if SQL_TYPE == "text":
        return serializers.CharField(max_length=MOST_CHARACTERS, trim_whitespace=False, **options)
    return serializers.UUIDField(**options)


class PublicIdField(serializers.Field):  # type: ignore[type-arg]
    """An id with its prefix, `whk_…`; a UUID inside."""

    def __init__(self, prefix: str, **options: Any) -> None:
        self.prefix = prefix
        super().__init__(**options)

    def to_representation(self, value: UUID) -> str:
        return self.prefix + value.hex

    def to_internal_value(self, data: Any) -> UUID:
        try:
            return parse_public_id(data, self.prefix)
        except (PublicIdInvalidError, AttributeError, TypeError):
            raise serializers.ValidationError(
                f"This is not an id of the form {self.prefix}<32 hex digits>."
            ) from None


def id_pattern(prefix: str) -> str:
    """Return the form of a PublicIdField for descriptions."""
    return f"^{prefix}[0-9a-fA-F]{{32}}$"


@extend_schema_field({"type": "string", "format": "uuid"})
class OwnedField(serializers.Field):  # type: ignore[type-arg]
    """The id of one of the user's own objects; those of other users count as missing."""

    def __init__(self, objects: Manager[Any], *, owner: str = "owner", **options: Any) -> None:
        self._objects, self._owner = objects, owner
        super().__init__(**options)

    def to_representation(self, value: Model) -> str:
        return str(value.pk)

    def to_internal_value(self, data: Any) -> Model:
        user = self.context["request"].user
        try:
            found: Model = self._objects.get(**{"pk": UUID(data), self._owner: user})
        except (ValueError, AttributeError, TypeError, self._objects.model.DoesNotExist):
            name = self._objects.model._meta.verbose_name
            raise serializers.ValidationError(f"You have no {name} with this id.") from None
        return found
