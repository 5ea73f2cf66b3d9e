"""`/portal-links`: one-time links into an owner's portal, for colleagues, agents and host products."""

from datetime import timedelta

from django.db import transaction
from django.db.models import Q, QuerySet
from django.urls import reverse
from drf_spectacular.utils import extend_schema, extend_schema_serializer, extend_schema_view
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import service
from webhooks.api.authentication import owners
from webhooks.api.base import ApiModelSerializer, ApiViewSet, ListAction, PublicIdField
from webhooks.api.permissions import refusal_of
from webhooks.api.serializers import owner_key_field
from webhooks.doors import access
from webhooks.doors.owners import owner_of
from webhooks.ids import PORTAL_LINK_PREFIX, WEBHOOK_PREFIX
from webhooks.models import PortalLink
from webhooks.models.owners import owner_key
from webhooks.registry.portal_links import (
    MAX_OPENS_FOR,
    MAX_RETURN_URL,
    MAX_SESSION_LASTS,
    OPENS_FOR,
    SESSION_LASTS,
    facts_of,
)

MINUTE = timedelta(minutes=1)


class PortalLinkSerializer(ApiModelSerializer):
    """A one-time link into an owner's portal, and its session."""

    id = PublicIdField(PORTAL_LINK_PREFIX, read_only=True)
    user_id = owner_key_field(
        source="owner_id",
        required=False,
        help_text="Whose portal it opens; by default your own. Others' need permissions.",
    )
    webhook_id = PublicIdField(
        WEBHOOK_PREFIX,
        required=False,
        allow_null=True,
        default=None,
        help_text="The only webhook that is shown; null for all.",
    )
    capabilities = serializers.ListField(
        child=serializers.ChoiceField(choices=PortalLink.Capability.choices),
        max_length=len(PortalLink.Capability.values),
        default=["view"],
        help_text="`view` is always among them; adding and rotating need `manage` and `secrets`.",
    )
    return_url = serializers.CharField(
        max_length=MAX_RETURN_URL, allow_blank=True, default="", help_text="Of its “Back” link."
    )

    class Meta:
        model = PortalLink
        fields = [
            "id", "user_id", "webhook_id", "capabilities", "return_url", "opens_until", "opened_at",
            "session_ends_at", "revoked_at", "created_at",
        ]  # fmt: skip
        read_only_fields = [
            "opens_until", "opened_at", "session_ends_at", "revoked_at", "created_at",
        ]  # fmt: skip


@extend_schema_serializer(component_name="CreatePortalLink")
class NewPortalLinkSerializer(PortalLinkSerializer):
    """What the link shall open, and for how long; the link itself is shown this once."""

    opens_for_minutes = serializers.IntegerField(
        min_value=1, max_value=MAX_OPENS_FOR // MINUTE, default=OPENS_FOR // MINUTE, write_only=True,
        help_text="How long the link can be opened, once.",
    )  # fmt: skip
    session_minutes = serializers.IntegerField(
        min_value=1, max_value=MAX_SESSION_LASTS // MINUTE, default=SESSION_LASTS // MINUTE,
        write_only=True, help_text="How long the session lasts that it opens.",
    )  # fmt: skip
    url = serializers.CharField(read_only=True, help_text="The link; shown this once.")

    class Meta(PortalLinkSerializer.Meta):
        fields = [*PortalLinkSerializer.Meta.fields, "opens_for_minutes", "session_minutes", "url"]


@extend_schema_view(
    list=extend_schema(summary="List links into the portal"),
    destroy=extend_schema(
        operation_id="revokePortalLink", summary="Revoke a link and its session, at once"
    ),
)
class PortalLinkViewSet(ListAction, ApiViewSet[PortalLink]):
    id_prefix = PORTAL_LINK_PREFIX
    # Every session of the portal reads.
    action_scopes = {"create": ("read", "write")}
    serializer_class = PortalLinkSerializer

    def get_queryset(self) -> QuerySet[PortalLink]:
        own = Q(owner_id=self.owner_id)
        # Who made a link for somebody else may revoke it.
        return PortalLink.objects.filter(
            own if self.action == "list" else own | Q(created_by_id=self.user_id)
        )

    @extend_schema(
        summary="Make a one-time link into the portal",
        request=NewPortalLinkSerializer,
        responses={201: NewPortalLinkSerializer},
    )
    @transaction.atomic
    def create(self, request: Request) -> Response:
        wish = self.read(NewPortalLinkSerializer)
        named = wish.get("owner_id")
        is_own = named is None or named == owner_key(owner_of(request))
        owner_id = self.owner_id if named is None else named
        if not is_own and not access.may(request.user, access.OPEN_PORTAL):
            raise PermissionDenied(f"{refusal_of(access.OPEN_PORTAL)} Leave userId out.")
        if not is_own and not owners.get_many([owner_id]):
            raise serializers.ValidationError({"userId": ["There is no user with this id."]})
        webhook = None
        if wish["webhook_id"] is not None:
            webhook = service.get_webhooks(owner_id).filter(id=wish["webhook_id"]).first()
            if webhook is None:
                problem = "The user has no webhook with this id."
                raise serializers.ValidationError({"webhookId": [problem]})
        link = service.create_portal_link(
            owner_id,
            capabilities=wish["capabilities"],
            webhook=webhook,
            opens_for=wish["opens_for_minutes"] * MINUTE,
            session_lasts=wish["session_minutes"] * MINUTE,
            return_url=wish["return_url"],
            created_by=request.user,
        )
        self.note("portallink.create", link, **facts_of(link))
        link.url = request.build_absolute_uri(reverse("portal-open", args=[link.key]))  # type: ignore[attr-defined]
        return self.show(NewPortalLinkSerializer, link, 201)

    @transaction.atomic
    def destroy(self, request: Request, pk: str) -> Response:
        link = self.get_object()
        if service.revoke_portal_link(link):
            self.note("portallink.revoke", link)
        return Response(status=204)
