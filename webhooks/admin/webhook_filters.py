"""Filters of the list of webhooks."""

from typing import Any, ClassVar

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from webhooks.admin.look import DropdownFilter
from webhooks.choices import BreakerState
from webhooks.models import Webhook


class StateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"
    conditions: ClassVar[dict[str, Q]] = {
        "active": Q(active=True, failing_since=None, breaker_state=BreakerState.CLOSED),
        "failing": Q(active=True, failing_since__isnull=False),
        "open": Q(active=True) & ~Q(breaker_state=BreakerState.CLOSED),
        "disabled": Q(active=False),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("active", "Active and healthy"),
            ("failing", "Failing"),
            ("open", "Breaker open or probing"),
            ("disabled", "Disabled"),
            ("deleted", "Deleted"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> QuerySet[Webhook]:
        if self.value() == "deleted":
            return queryset.exclude(deleted_at=None)
        return _choose(queryset.filter(deleted_at=None), self.conditions, self.value())


class KindFilter(DropdownFilter):
    title = "kind"
    parameter_name = "kind"
    conditions: ClassVar[dict[str, Q]] = {
        "platform": Q(is_platform=True),
        "ordered": ~Q(order="none"),
        "limited": Q(rate_limit__isnull=False),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("platform", "Platform webhooks"), ("ordered", "Ordered"), ("limited", "Limited")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> QuerySet[Webhook]:
        return _choose(queryset, self.conditions, self.value())


def _choose(
    rows: QuerySet[Webhook], conditions: dict[str, Q], value: str | None
) -> QuerySet[Webhook]:
    """Return the rows of a choice: all without one, none for a choice that there is not."""
    if not value:
        return rows
    return rows.filter(conditions[value]) if value in conditions else rows.none()
