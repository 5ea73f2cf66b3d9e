"""`/tokens`: credentials for programs, made with a user name and a password and shown once."""

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks.api import throttles
from webhooks.api.authentication import CODE_HEADER, PasswordAuthentication, tokens
from webhooks.api.base import (
    ApiModelSerializer,
    ApiViewSet,
    DeleteAction,
    ListAction,
)
from webhooks.api.permissions import refusal_of
from webhooks.api.serializers import PublicIdField, TimeField
from webhooks.doors import access
from webhooks.ids import TOKEN_PREFIX
from webhooks.models import ApiToken

MAX_DAYS = 365
DEFAULT_DAYS = 90


class TokenSerializer(ApiModelSerializer):
    """Credentials of a program, without their secret."""

    id = PublicIdField(TOKEN_PREFIX, read_only=True)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=ApiToken.Scope.choices), min_length=1, max_length=3
    )
    is_service = serializers.BooleanField(
        default=False, help_text="May trigger events for every user; only staff can make one."
    )
    created_at = TimeField(source="created", read_only=True)
    expires_at = TimeField(source="expiry", read_only=True)

    class Meta:
        model = ApiToken
        fields = ["id", "name", "scopes", "is_service", "created_at", "expires_at", "last_used_at"]
        read_only_fields = ["last_used_at"]


class NewTokenSerializer(TokenSerializer):
    """What a program shall be allowed, and for how long."""

    expires_in_days = serializers.IntegerField(
        min_value=1, max_value=MAX_DAYS, default=DEFAULT_DAYS, write_only=True
    )

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "expires_in_days"]


class TokenWithSecretSerializer(TokenSerializer):
    """Credentials of a program, shown this once."""

    token = serializers.CharField(read_only=True, help_text="Shown this once.")

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "token"]


@extend_schema_view(
    list=extend_schema(summary="List tokens"),
    destroy=extend_schema(
        operation_id="revokeToken", summary="Revoke a token; takes effect within a second"
    ),
)
class TokenViewSet(ListAction, DeleteAction, ApiViewSet[ApiToken]):
    id_prefix = TOKEN_PREFIX
    serializer_class = TokenSerializer

    def get_queryset(self) -> QuerySet[ApiToken]:
        return ApiToken.objects.filter(user_id=self.user_id)

    def get_authenticators(self) -> list[Any]:
        # Called before the action is known; without a request by the description's generator.
        method = self.request.method if self.request else ""
        if self.action_map.get(str(method).lower()) == "create":
            return [PasswordAuthentication()]
        return super().get_authenticators()

    def perform_authentication(self, request: Request) -> None:
        if self.action == "create":
            # Before the password is checked: the limit is against guessing.
            login = throttles.RateThrottle("login", by_address=True)
            if not login.allow_request(request, self):
                self.throttled(request, login.wait())
        super().perform_authentication(request)

    @extend_schema(
        summary="Make a token",
        auth=[{"password": []}],  # type: ignore[list-item]
        parameters=[
            OpenApiParameter(
                CODE_HEADER,
                str,
                OpenApiParameter.HEADER,
                description="The code of the account's second factor, if it has one.",
            )
        ],
        request=NewTokenSerializer,
        responses={201: TokenWithSecretSerializer},
    )
    @transaction.atomic
    def create(self, request: Request) -> Response:
        wish = self.read(NewTokenSerializer)
        if wish["is_service"] and not access.may(request.user, access.TRIGGER_FOR_OTHERS):
            refusal = refusal_of(access.TRIGGER_FOR_OTHERS)
            raise PermissionDenied(f"{refusal} Leave isService out.")
        ApiToken.objects.make_room(request.user)
        days = wish.pop("expires_in_days")
        lifetime = timedelta(days=days)
        token, _ = ApiToken.objects.issue(request.user, lifetime=lifetime, **wish)
        self.note("apitoken.create", token, days=days, **wish)
        return self.show(TokenWithSecretSerializer, token, 201)

    @extend_schema(
        operation_id="getCurrentToken",
        summary="Show the token that this request comes with",
        responses=TokenSerializer,
        filters=False,
    )
    @action(detail=False, pagination_class=None)
    def current(self, request: Request) -> Response:
        if not isinstance(request.auth, ApiToken):
            raise NotFound("This request comes with a session, not with a token.")
        return self.show(TokenSerializer, request.auth)

    def perform_destroy(self, token: ApiToken) -> bool:
        tokens.forget(token)
        return super().perform_destroy(token)
