"""`/redeliveries`: send many deliveries again, or events that a webhook missed."""

from typing import Any, ClassVar
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import service
from webhooks.api import throttles
from webhooks.api.base import (
    ApiModelSerializer,
    ApiSerializer,
    ApiViewSet,
    ConflictError,
    ListAction,
    NoInput,
    PublicIdField,
    RetrieveAction,
)
from webhooks.api.serializers import TimeField
from webhooks.doors import access, allowances
from webhooks.errors import RedeliveryScopeError
from webhooks.ids import (
    DELIVERY_PREFIX,
    EVENT_PREFIX,
    REDELIVERY_PREFIX,
    WEBHOOK_PREFIX,
)
from webhooks.models import Delivery, Redelivery
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.repair import redelivery, redelivery_progress, redelivery_scope
from webhooks.repair.redelivery_scope import REPEATABLE

MAX_IDS = 1000
REPEATABLE_CHOICES = sorted(REPEATABLE)
WARNINGS_HELP = "Such as that an ordered webhook gets these in any order, also behind newer events."


class RedeliverySerializer(ApiModelSerializer):
    """A request to send deliveries once more, or events that a webhook never got."""

    id = PublicIdField(REDELIVERY_PREFIX, read_only=True)

    class Meta:
        model = Redelivery
        fields = [
            "id", "status", "is_replay", "rate_limit", "matched_count", "queued_count", "error",
            "created_at", "finished_at",
        ]  # fmt: skip
        read_only_fields = fields
        extra_kwargs: ClassVar = {
            "matched_count": {
                "help_text": f"More than {COUNTED_AT_MOST:,} may be said as one more than that, until "
                "all are queued."
            }
        }


class StartedRedeliverySerializer(RedeliverySerializer):
    """A redelivery, with what may be unexpected of it."""

    warnings = serializers.SerializerMethodField(
        method_name="get_warnings", help_text=WARNINGS_HELP
    )

    class Meta(RedeliverySerializer.Meta):
        fields = [*RedeliverySerializer.Meta.fields, "warnings"]
        read_only_fields = fields

    def get_warnings(self, asked: Redelivery) -> list[str]:
        return redelivery_scope.warnings_of(redelivery_scope.scope_of(asked))


class RedeliveryDetailSerializer(StartedRedeliverySerializer):
    """How far a redelivery has come."""

    succeeded_count = serializers.IntegerField(read_only=True, help_text="Delivered since.")
    failed_count = serializers.IntegerField(read_only=True, help_text="Failed again, or cancelled.")
    is_over = serializers.BooleanField(
        read_only=True, help_text="Whether all deliveries are finished."
    )

    class Meta(StartedRedeliverySerializer.Meta):
        fields = [
            *StartedRedeliverySerializer.Meta.fields, "succeeded_count", "failed_count", "is_over",
        ]  # fmt: skip
        read_only_fields = fields


class NewRedeliverySerializer(ApiSerializer):
    """All conditions together, at least one: `deliveryIds` names deliveries, the others select some."""

    delivery_ids = serializers.ListField(
        child=PublicIdField(DELIVERY_PREFIX),
        max_length=MAX_IDS,
        required=False,
        help_text="An empty list selects nothing.",
    )
    webhook_id = PublicIdField(WEBHOOK_PREFIX, required=False)
    event_id = PublicIdField(EVENT_PREFIX, required=False)
    event_type = serializers.CharField(max_length=100, required=False)
    statuses = serializers.ListField(
        child=serializers.ChoiceField(choices=REPEATABLE_CHOICES),
        max_length=len(REPEATABLE),
        required=False,
        help_text="By default FAILED, or any where `deliveryIds` is given; an empty list selects "
        "nothing.",
    )
    since = TimeField(required=False, help_text="Created at this time or later.")
    until = TimeField(required=False, help_text="Created before this time.")
    rate_limit = serializers.FloatField(
        min_value=0.001, max_value=10_000, required=False, help_text="Deliveries per second."
    )
    replay = serializers.BooleanField(
        default=False,
        help_text="Send the events since `since` that `webhookId` selects but never received.",
    )
    dry_run = serializers.BooleanField(default=False, help_text="Only count.")


CONDITIONS = {
    "delivery_ids", "webhook_id", "event_id", "event_type", "statuses", "since", "until"
}  # fmt: skip
SAY_WHICH = (
    "Say which deliveries: name some, or choose a webhook, an event, an event type, statuses or a "
    'time range. All that failed are {"statuses": ["FAILED"]}.'
)


class DeliveryCountSerializer(ApiSerializer):
    """How many deliveries a redelivery would send."""

    matched_count = serializers.IntegerField(
        help_text=f"{COUNTED_AT_MOST + 1:,} means more than {COUNTED_AT_MOST:,}: no more are counted."
    )
    warnings = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text=f"Where there are any. {WARNINGS_HELP}",
    )


def _counted(rows: QuerySet[Any], scope: service.Scope) -> dict[str, Any]:
    counted: dict[str, Any] = {"matched_count": rows.order_by()[: COUNTED_AT_MOST + 1].count()}
    if warnings := redelivery_scope.warnings_of(scope):
        counted["warnings"] = warnings
    return counted


def _spend(owner_id: UUID, rows: QuerySet[Any]) -> int:
    """Count the deliveries against the quota, and return their number.

    Raises QuotaExceededError if it has less left.
    """
    allowance, count = allowances.spend_rows("redeliveries", owner_id, rows)
    throttles.check_quota(allowance)
    return count


def facts_of(asked: Redelivery) -> dict[str, Any]:
    """Return the audit entry's changes of a new redelivery."""
    facts: dict[str, Any] = asked.scope | {
        "replay": asked.is_replay,
        "matched": asked.matched_count,
    }
    if "delivery_ids" in facts:
        facts["delivery_ids"] = len(facts["delivery_ids"])
    return facts


@extend_schema_view(
    list=extend_schema(summary="List redeliveries"),
    retrieve=extend_schema(
        summary="Show the progress of a redelivery", responses=RedeliveryDetailSerializer
    ),
)
class RedeliveryViewSet(ListAction, RetrieveAction, ApiViewSet[Redelivery]):
    id_prefix = REDELIVERY_PREFIX
    serializer_class = RedeliverySerializer

    def get_queryset(self) -> QuerySet[Redelivery]:
        if getattr(self, "swagger_fake_view", False):
            return Redelivery.objects.none()
        is_operator = access.may(self.request.user, access.REDELIVER)
        return redelivery.redeliveries_of(self.owner_id, is_operator=is_operator)

    def retrieve(self, request: Request, pk: str) -> Response:
        found = self.get_object()
        progress = redelivery_progress.progress(found)
        found.succeeded_count = progress.succeeded  # type: ignore[attr-defined]
        found.failed_count = progress.failed  # type: ignore[attr-defined]
        found.is_over = progress.is_complete  # type: ignore[attr-defined]
        return self.show(RedeliveryDetailSerializer, found)

    @extend_schema(
        summary="Send deliveries again, or only count them",
        request=NewRedeliverySerializer,
        responses={200: DeliveryCountSerializer, 202: StartedRedeliverySerializer},
    )
    @transaction.atomic
    def create(self, request: Request) -> Response:
        wish = self.read(NewRedeliverySerializer)
        asked = self._replay(wish) if wish["replay"] else self._redeliver(wish)
        if not isinstance(asked, Redelivery):
            return self.show(DeliveryCountSerializer, asked)
        self.note("redelivery.create", asked, **facts_of(asked))
        return self.show(StartedRedeliverySerializer, asked, 202)

    def _redeliver(self, wish: dict[str, Any]) -> Redelivery | dict[str, Any]:
        owner = self.request.user
        if not CONDITIONS & wish.keys():
            # An empty request must not mean everything that ever failed.
            raise RedeliveryScopeError(SAY_WHICH)
        ids = tuple(wish["delivery_ids"]) if "delivery_ids" in wish else None
        self._check_ids(ids or ())
        self._own_webhook(wish)
        default = ("FAILED",) if ids is None else sorted(REPEATABLE)
        scope = service.Scope(
            delivery_ids=ids,
            owner_id=self.owner_id,
            statuses=tuple(wish.get("statuses", default)),
            **{
                name: wish[name]
                for name in ("webhook_id", "event_id", "event_type", "since", "until")
                if name in wish
            },
        )
        if wish["dry_run"]:
            return _counted(redelivery_scope.matching(scope), scope)
        return service.redeliver(
            scope,
            requested_by=owner,
            rate_limit=wish.get("rate_limit"),
            matched_count=_spend(self.owner_id, redelivery_scope.matching(scope)),
        )

    def _replay(self, wish: dict[str, Any]) -> Redelivery | dict[str, Any]:
        refused = {"delivery_ids", "event_id", "event_type", "statuses"} & wish.keys()
        missing = {"webhook_id", "since"} - wish.keys()
        if refused or missing:
            message = (
                "A replay takes webhookId and since, perhaps until and rateLimit, and no more."
            )
            raise serializers.ValidationError({"replay": [message]})
        webhook = self._own_webhook(wish)
        scope = service.Scope(
            webhook_id=webhook.id, since=wish["since"], until=wish.get("until"), statuses=()
        )
        scope.check()
        if wish["dry_run"]:
            return _counted(redelivery_scope.missing(webhook, scope), scope)
        return service.replay(
            webhook,
            wish["since"],
            wish.get("until"),
            requested_by=self.request.user,
            rate_limit=wish.get("rate_limit"),
            matched_count=_spend(self.owner_id, redelivery_scope.missing(webhook, scope)),
        )

    def _check_ids(self, ids: tuple[Any, ...]) -> None:
        """Refuse deliveries of other owners as if they did not exist, rather than skip them."""
        owned = set(
            Delivery.objects.for_owner(self.owner_id)
            .filter(id__in=ids)
            .values_list("id", flat=True)
        )
        problems = {
            str(index): [f"You have no delivery {DELIVERY_PREFIX}{row_id.hex}."]
            for index, row_id in enumerate(ids)
            if row_id not in owned
        }
        if problems:
            raise serializers.ValidationError({"deliveryIds": problems})

    def _own_webhook(self, wish: dict[str, Any]) -> Any:
        if "webhook_id" not in wish:
            return None
        webhook = service.get_webhooks(self.owner_id).filter(id=wish["webhook_id"]).first()
        if webhook is None:
            raise serializers.ValidationError({"webhookId": ["You have no webhook with this id."]})
        return webhook

    @extend_schema(
        summary="Stop a redelivery; queued deliveries are still sent",
        request=NoInput,
        responses=RedeliverySerializer,
    )
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def cancel(self, request: Request, pk: str) -> Response:
        found = self.get_object()
        self.read()
        if not redelivery.cancel(found):
            raise ConflictError("This redelivery has ended already; there is nothing to cancel.")
        self.note("redelivery.cancel", found, status=["running", "cancelled"])
        found.refresh_from_db()
        return self.show(RedeliverySerializer, found)
