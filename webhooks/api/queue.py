"""`/queue`: the backlog and the workers, of all owners together; for staff with permissions."""

from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.helpers import forced_singular_serializer
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import service
from webhooks.api.base import ApiSerializer, ApiViewSet, NoInput, PublicIdField
from webhooks.api.filters import NoFilters
from webhooks.api.permissions import HasScope, MayDo
from webhooks.api.redeliveries import RedeliverySerializer, facts_of
from webhooks.api.serializers import TimeField, owner_key_field
from webhooks.doors import access
from webhooks.figures import present
from webhooks.ids import WEBHOOK_PREFIX
from webhooks.models import Delivery, Pause
from webhooks.repair import housekeeping


class WorkerSerializer(ApiSerializer):
    """A process that sends."""

    id = serializers.UUIDField()
    host = serializers.CharField()
    pid = serializers.IntegerField()
    started_at = TimeField()
    in_flight = serializers.IntegerField()
    silent_seconds = serializers.FloatField()
    is_alive = serializers.BooleanField()


class ChoreSerializer(ApiSerializer):
    """Housekeeping that workers do now and then."""

    name = serializers.CharField()
    finished_at = TimeField(allow_null=True, help_text="When it last finished.")
    failures = serializers.IntegerField(help_text="Consecutive runs that failed or never ended.")
    last_error = serializers.CharField()
    is_under_way = serializers.BooleanField()
    is_overdue = serializers.BooleanField(help_text="Whether it is due but no worker runs it.")


class PauseSendingSerializer(ApiSerializer):
    """Why nothing shall be sent."""

    reason = serializers.CharField(max_length=500, allow_blank=True, default="")


class QueueSerializer(ApiSerializer):
    """What waits and who works, of all owners together."""

    due = serializers.IntegerField(help_text="Could be sent at once.")
    oldest_due_seconds = serializers.FloatField(allow_null=True)
    held = serializers.IntegerField(
        help_text="Due, but their webhooks receive nothing at the moment."
    )
    scheduled = serializers.IntegerField(help_text="Not due yet.")
    retrying = serializers.IntegerField()
    sending = serializers.IntegerField()
    unfinished = serializers.IntegerField()
    is_paused = serializers.BooleanField()
    pause_reason = serializers.CharField(allow_null=True)
    workers = WorkerSerializer(many=True)
    chores = ChoreSerializer(many=True)


class RetryFailedSerializer(ApiSerializer):
    """A selection of failed deliveries: of a webhook or a user, in a time range or all."""

    webhook_id = PublicIdField(WEBHOOK_PREFIX, required=False)
    user_id = owner_key_field(required=False)
    since = TimeField(required=False)
    until = TimeField(required=False)
    rate_limit = serializers.FloatField(min_value=0.001, max_value=10_000, required=False)


class QueueViewSet(ApiViewSet[Delivery]):
    permission_classes = [HasScope, MayDo]
    deeds = {
        "list": access.VIEW_QUEUE,
        "pause": access.PAUSE,
        "resume": access.PAUSE,
        "retry_failed": access.REDELIVER,
    }
    filterset_class = NoFilters
    pagination_class = None
    serializer_class = QueueSerializer

    def get_queryset(self) -> QuerySet[Delivery]:
        return Delivery.objects.none()

    @extend_schema(
        operation_id="getQueue",
        summary="Show what waits and who works",
        responses=forced_singular_serializer(QueueSerializer),  # type: ignore[no-untyped-call]
    )
    def list(self, request: Request) -> Response:
        return self._show_queue()

    @extend_schema(
        operation_id="pauseSending",
        summary="Stop all sending; everything waits",
        request=PauseSendingSerializer,
        responses=QueueSerializer,
    )
    @action(detail=False, methods=["post"])
    @transaction.atomic
    def pause(self, request: Request) -> Response:
        reason = self.read(PauseSendingSerializer)["reason"]
        if service.pause_sending(reason, paused_by=request.user).is_new:
            self.note("sending.pause", "sending", paused=[False, True], reason=reason)
        return self._show_queue()

    @extend_schema(
        operation_id="resumeSending",
        summary="Send again",
        request=NoInput,
        responses=QueueSerializer,
    )
    @action(detail=False, methods=["post"])
    @transaction.atomic
    def resume(self, request: Request) -> Response:
        self.read()
        if service.resume_sending():
            self.note("sending.resume", "sending", paused=[True, False])
        return self._show_queue()

    @extend_schema(
        operation_id="retryFailed",
        summary="Send failed deliveries once more",
        request=RetryFailedSerializer,
        responses={202: RedeliverySerializer},
    )
    @action(detail=False, methods=["post"], url_path="retry-failed")
    @transaction.atomic
    def retry_failed(self, request: Request) -> Response:
        wish = self.read(RetryFailedSerializer)
        scope: dict[str, Any] = {
            "webhook_id": wish.get("webhook_id"),
            "owner_id": wish.get("user_id"),
            "since": wish.get("since"),
            "until": wish.get("until"),
        }
        asked = service.redeliver(
            service.Scope(**scope), requested_by=request.user, rate_limit=wish.get("rate_limit")
        )
        self.note("redelivery.create", asked, **facts_of(asked))
        return self.show(RedeliverySerializer, asked, 202)

    def _show_queue(self) -> Response:
        backlog = present.backlog()
        names = [
            "due", "oldest_due_seconds", "held", "scheduled", "retrying", "sending", "unfinished",
            "is_paused",
        ]  # fmt: skip
        shown = {name: getattr(backlog, name) for name in names}
        reason = Pause.objects.values_list("reason", flat=True).first()
        shown |= {
            "pause_reason": reason, "workers": present.workers(), "chores": housekeeping.states()
        }  # fmt: skip
        return self.show(QueueSerializer, shown)
