"""The figures of a webhook, and of the queue, as the API shows them (webhooks/figures/history.py)."""

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request

from webhooks.api.base import ApiFilters, ApiSerializer, ParametersInvalidError
from webhooks.api.filters import OneOfFilter, TimeFilter, in_utc
from webhooks.api.serializers import TimeField
from webhooks.figures import history
from webhooks.models import Webhook

DEFAULT_RANGE = timedelta(days=7)
MAX_HOURS = timedelta(days=31)
MAX_DAYS = timedelta(days=400)


class StatsQuery(ApiFilters):
    """The selection of deliveries to count."""

    since = TimeFilter(label="Created at this time or later; by default seven days ago.")
    until = TimeFilter(label="Created before this time; by default now.")
    bucket = OneOfFilter([("hour", "hour"), ("day", "day")], label="By default `hour`.")

    @property
    def qs(self) -> Any:
        return self.queryset


class StatsBucketSerializer(ApiSerializer):
    """The deliveries that were created in one hour or day."""

    starts_at = TimeField()
    deliveries = serializers.IntegerField()
    succeeded = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()
    open = serializers.IntegerField(help_text="Unfinished deliveries.")


class WebhookStatsSerializer(ApiSerializer):
    """What became of the deliveries of a webhook that were created in a time range."""

    since = TimeField()
    until = TimeField()
    deliveries = serializers.IntegerField()
    by_status = serializers.DictField(child=serializers.IntegerField())
    attempts = serializers.IntegerField()
    success_rate = serializers.FloatField(
        allow_null=True, help_text="0 to 1: succeeded / (succeeded + failed)."
    )
    duration_p50_ms = serializers.IntegerField(allow_null=True, help_text="Of one attempt.")
    duration_p95_ms = serializers.IntegerField(allow_null=True)
    delivery_p50_ms = serializers.IntegerField(
        allow_null=True, help_text="From the creation of a delivery to its success."
    )
    delivery_p95_ms = serializers.IntegerField(allow_null=True)
    last_success_at = TimeField(allow_null=True)
    last_failure_at = TimeField(allow_null=True)
    series = StatsBucketSerializer(many=True)


def stats_of(webhook: Webhook, request: Request) -> dict[str, Any]:
    """Return the figures that a request asks for: totals and a time series."""
    query = StatsQuery(request.query_params, Webhook.objects.none(), request=request)
    if not query.is_valid():
        raise ParametersInvalidError(
            {name: [str(one) for one in problems] for name, problems in query.errors.items()}
        )
    chosen = query.form.cleaned_data
    until = in_utc("until", chosen["until"] or timezone.now())
    since = in_utc("since", chosen["since"] or until - DEFAULT_RANGE)
    size: history.BucketSize = chosen["bucket"] or "hour"
    _check_range(since, until, size)
    selection = history.Selection(since=since, until=until, webhook_ids=(webhook.id,))
    totals = history.totals(selection)
    names = [
        "deliveries", "by_status", "attempts", "success_rate", "duration_p50_ms",
        "duration_p95_ms", "delivery_p50_ms", "delivery_p95_ms", "last_success_at",
        "last_failure_at",
    ]  # fmt: skip
    figures = {name: getattr(totals, name) for name in names}
    return {
        "since": since,
        "until": until,
        **figures,
        "series": history.series(selection, size),
    }


def _check_range(since: datetime, until: datetime, size: str) -> None:
    if since >= until:
        raise ParametersInvalidError({"since": ["The range ends before it starts."]})
    longest = MAX_HOURS if size == "hour" else MAX_DAYS
    if until - since > longest:
        raise ParametersInvalidError(
            {"since": [f"With buckets of one {size} the range is at most {longest.days} days."]}
        )
