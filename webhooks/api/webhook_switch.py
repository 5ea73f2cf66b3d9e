"""`/webhooks/{id}/enable`, `disable` and `try-now`."""

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import service
from webhooks.api import throttles
from webhooks.api.base import ApiViewSet, NoInput
from webhooks.api.webhook_serializers import (
    DisableWebhookSerializer,
    EnableResultSerializer,
    EnableWebhookSerializer,
    WebhookSerializer,
)
from webhooks.doors import allowances
from webhooks.figures import present
from webhooks.models import Webhook
from webhooks.repair.missed import missed_events


class SwitchActions(ApiViewSet[Webhook]):
    """What switches a webhook on and off."""

    @extend_schema(
        summary="Send to it again",
        request=EnableWebhookSerializer,
        responses=EnableResultSerializer,
    )
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def enable(self, request: Request, pk: str) -> Response:
        """One that is enabled already stays as it is."""
        webhook = self.get_object()
        reason = webhook.disabled_reason
        wanted = self.read(EnableWebhookSerializer)
        send, send_missed = wanted["send"], wanted["send_missed"]
        if wanted["dry_run"] or webhook.active:
            counts = {
                "waiting": present.waiting(webhook),
                "missed": service.count_missed(webhook),
                "redelivery_id": None,
            }
            return self.show(EnableResultSerializer, counts)
        if send_missed:
            rows = missed_events(webhook)
            throttles.check_quota(allowances.spend_rows("redeliveries", self.owner_id, rows)[0])
        enabled = service.enable(
            webhook, send=send, send_missed=send_missed, requested_by=request.user
        )
        self.note(
            "webhook.enable",
            webhook,
            active=[False, True],
            disabled_reason=[reason, ""],
            waiting=send,
        )
        asked = enabled.replay
        if asked is not None:
            self.note("redelivery.create", asked, **asked.scope, matched=asked.matched_count)
        result = {
            "waiting": enabled.waiting,
            "missed": enabled.missed,
            "redelivery_id": None if asked is None else asked.pk,
        }
        return self.show(EnableResultSerializer, result)

    @extend_schema(
        operation_id="tryWebhookNow",
        summary="Send its next delivery at once",
        request=NoInput,
        responses={204: None},
    )
    @action(detail=True, methods=["post"], url_path="try-now")
    @transaction.atomic
    def try_now(self, request: Request, pk: str) -> Response:
        """Whatever its breaker, Retry-After or retry waits for. Success closes the breaker."""
        webhook = self.get_object()
        self.read()
        service.try_now(webhook)
        self.note("webhook.try_now", webhook, breaker_state=[webhook.breaker_state, "closed"])
        return Response(status=204)

    @extend_schema(
        summary="Stop sending to it; its deliveries wait",
        request=DisableWebhookSerializer,
        responses=WebhookSerializer,
    )
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def disable(self, request: Request, pk: str) -> Response:
        """One that is disabled already stays as it is."""
        webhook = self.get_object()
        reason = self.read(DisableWebhookSerializer)["reason"]
        if webhook.active:
            service.disable(webhook, reason)
            self.note("webhook.disable", webhook, active=[True, False], reason=reason)
        return self.show(WebhookSerializer, webhook)
