"""`/webhooks/{id}`: its signing secrets and public keys."""

from datetime import timedelta

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import service
from webhooks.api.base import ApiViewSet, NoInput
from webhooks.api.webhook_serializers import (
    PublicKeysSerializer,
    RevokeResultSerializer,
    RotateSecretSerializer,
    WebhookWithSecretSerializer,
)
from webhooks.models import Webhook
from webhooks.wire.signing import jwk_of


class SecretActions(ApiViewSet[Webhook]):
    """The part of WebhookViewSet that is about secrets."""

    @extend_schema(
        operation_id="rotateSecret",
        summary="Replace the signing secret",
        request=RotateSecretSerializer,
        responses=WebhookWithSecretSerializer,
    )
    @action(detail=True, methods=["post"], url_path="rotate-secret")
    @transaction.atomic
    def rotate_secret(self, request: Request, pk: str) -> Response:
        webhook = self.get_object()
        wish = self.read(RotateSecretSerializer)
        overlap = timedelta(hours=wish.pop("overlap_hours"))
        service.rotate_secret(webhook, overlap=overlap, **wish)
        self.note(
            "secret.rotate",
            webhook,
            overlap_seconds=overlap.total_seconds(),
            scheme=wish["scheme"],
        )
        return self.show(WebhookWithSecretSerializer, webhook)

    @extend_schema(
        operation_id="getPublicKeys",
        summary="Show the keys that `v1a` signatures are verified with",
        responses=PublicKeysSerializer,
        filters=False,
    )
    @action(detail=True, url_path="public-keys", pagination_class=None)
    def public_keys(self, request: Request, pk: str) -> Response:
        keys = [jwk_of(text) for text in self.get_object().public_keys]
        return self.show(PublicKeysSerializer, {"keys": keys})

    @extend_schema(
        operation_id="revokeSecrets",
        summary="Take all older secrets out of use",
        request=NoInput,
        responses=RevokeResultSerializer,
    )
    @action(detail=True, methods=["post"], url_path="revoke-secrets")
    @transaction.atomic
    def revoke_secrets(self, request: Request, pk: str) -> Response:
        webhook = self.get_object()
        self.read()
        count = service.revoke_secret(webhook)
        self.note("secret.revoke", webhook, count=count)
        return self.show(RevokeResultSerializer, {"revoked": count})
