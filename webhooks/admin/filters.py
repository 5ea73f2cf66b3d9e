"""Filters of the large lists; a redelivery's form has fields of the same names."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest

from webhooks import catalog
from webhooks.admin.look import DropdownFilter, MultipleFilter, TextFilter
from webhooks.choices import DeliveryStatus, FailureKind
from webhooks.doors import owners
from webhooks.doors.times import parse_moment
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import WEBHOOK_PREFIX, first_id_of, parse_public_id
from webhooks.models import Attempt, Webhook

NOTHING = UUID(int=0)
"""An id that matches no row."""


def codes_of(value: str) -> tuple[int, int] | None:
    """Return the first and last response code of `503` or `5xx`; None for anything else."""
    value = value.strip().lower()
    if re.fullmatch(r"[1-5]xx", value):
        first = int(value[0]) * 100
        return first, first + 99
    return (int(value), int(value)) if re.fullmatch(r"[1-9][0-9]{2}", value) else None


def webhook_of(value: str) -> UUID | None:
    """Return the id of the webhook with this public id, UUID or unique name, or None."""
    found = _id_of(value)
    if found is None:
        named = Webhook.objects.filter(name__iexact=value).values_list("pk", flat=True)[:2]
        found = named[0] if len(named) == 1 else None
    return found


def _id_of(value: str) -> UUID | None:
    try:
        if value.startswith(WEBHOOK_PREFIX):
            return parse_public_id(value, WEBHOOK_PREFIX)
        return UUID(value)
    except (ValueError, PublicIdInvalidError):
        return None


class MomentFilter(TextFilter):
    """Filters by the time-ordered primary key, so that no index on a time is needed."""

    template = "admin/webhooks/moment_filter.html"
    lookup: ClassVar[str]
    suggestions: ClassVar[Sequence[str]] = ("1h", "24h", "7d", "30d")

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        for choice in super().choices(changelist):
            widget = choice["form"].fields[self.parameter_name].widget
            list_id = f"moments-{self.parameter_name}"
            widget.attrs |= {"list": list_id, "placeholder": "6h or 2026-11-24T08:00"}
            yield choice | {
                "list_id": list_id,
                "suggestions": self.suggestions,
                "field_template": TextFilter.template,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        if not value:
            return queryset
        try:
            return queryset.filter(**{self.lookup: first_id_of(parse_moment(value))})
        except ValueError:
            return queryset.none()


class SinceFilter(MomentFilter):
    title = "time: since (UTC)"
    parameter_name = "since"
    lookup = "id__gte"


class UntilFilter(MomentFilter):
    title = "time: until (UTC)"
    parameter_name = "until"
    lookup = "id__lt"


class StatusFilter(MultipleFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, str(label)) for value, label in DeliveryStatus.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = [value for value in self.value() or [] if value]
        return queryset.filter(status__in=chosen) if chosen else queryset


class WebhookFilter(TextFilter):
    title = "webhook (id or name)"
    parameter_name = "webhook"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        return queryset.filter(webhook=webhook_of(value) or NOTHING) if value else queryset


class OwnerFilter(TextFilter):
    title = "owner (id or e-mail)"
    parameter_name = "owner"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        # NO_OWNER is stored for platform webhooks, so an unknown owner needs a filter of its own.
        if not value:
            return queryset
        owner_id = owners.key_of_owner(value)
        return queryset.none() if owner_id is None else queryset.filter(owner_id=owner_id)


class TypeFilter(DropdownFilter):
    title = "event type"
    parameter_name = "type"
    field: ClassVar[str] = "event_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(one.name, one.name) for one in catalog.all_types()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.field: self.value()}) if self.value() else queryset


class EventTypeFilter(TypeFilter):
    field = "type"


class CodeFilter(TextFilter):
    """A status code, or a class of them such as `5xx`."""

    title = "response code (503 or 5xx)"
    parameter_name = "code"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        if not value:
            return queryset
        codes = codes_of(value)
        return queryset.filter(response_code__range=codes) if codes else queryset.none()


class FailedAttemptFilter(TextFilter):
    """Deliveries with an attempt that failed in this way, whatever became of them later on.

    A failure kind, and a response code if one belongs to it: `timeout`, `http_status:503`.
    """

    title = "failed attempt (timeout, http_status:503)"
    parameter_name = "failed"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        kind, _, code = (self.value() or "").strip().partition(":")
        if not kind:
            return queryset
        attempts = Attempt.objects.filter(delivery=OuterRef("pk"), failure_kind=kind)
        if code:
            codes = codes_of(code)
            if codes is None:
                return queryset.none()
            attempts = attempts.filter(response_code__range=codes)
        return queryset.filter(Exists(attempts))


class KindFilter(DropdownFilter):
    title = "failure"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, str(label)) for value, label in FailureKind.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(failure_kind=self.value()) if self.value() else queryset
