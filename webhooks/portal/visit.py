"""Who looks at the portal, whose it is, and what may be done there."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest
from django.urls import reverse

from webhooks import service
from webhooks.doors import audit
from webhooks.doors.overtaken import was_deleted
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import (
    DELIVERY_PREFIX,
    EVENT_PREFIX,
    REDELIVERY_PREFIX,
    WEBHOOK_PREFIX,
    parse_public_id,
)
from webhooks.models import Delivery, Event, PortalLink, Redelivery, Webhook
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.owners import owner_key, owners_are_users
from webhooks.repair.redelivery import redeliveries_of

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Visit:
    """A request by a signed-in owner, or within the session of a portal link."""

    request: HttpRequest
    owner: Any
    link: PortalLink | None = None
    key: str = ""
    """The session's key, which is in the path of each of its pages."""
    found: list[Model] = field(default_factory=list, compare=False)
    """What this request is about."""

    @cached_property
    def owner_id(self) -> Any:
        return owner_key(self.owner)

    @property
    def user(self) -> Any:
        """Who is known to act: the signed-in user or, where users are owners, the link's owner."""
        if self.is_user:
            return self.request.user
        return self.owner if owners_are_users() else None

    @property
    def is_user(self) -> bool:
        """Whether the owner himself is signed in, or a user who acts for him."""
        return self.link is None

    @cached_property
    def only(self) -> Webhook | None:
        """The only webhook that the session shows; None for all."""
        return None if self.link is None else self.link.webhook

    @property
    def may_manage(self) -> bool:
        return self._has(PortalLink.Capability.MANAGE)

    @property
    def may_see_secrets(self) -> bool:
        return self.may_manage and self._has(PortalLink.Capability.SECRETS)

    @property
    def may_add(self) -> bool:
        """Whoever adds a webhook sees its secret."""
        return self.may_see_secrets and self.only is None

    def _has(self, capability: str) -> bool:
        return self.link is None or capability in self.link.capabilities

    def require(self, is_allowed: bool) -> None:
        """Raise PermissionDenied unless it is allowed."""
        if not is_allowed:
            raise PermissionDenied

    def url(self, name: str, *arguments: Any) -> str:
        """Return the URL of a page within this visit."""
        if self.link is None:
            return reverse(f"portal:{name}", args=arguments)
        return reverse(f"portal-session:{name}", args=[self.key, *arguments])

    # What there is for this visit; everything else is 404.

    def webhooks(self) -> QuerySet[Webhook]:
        rows: QuerySet[Webhook] = service.get_webhooks(self.owner_id)
        return rows if self.only is None else rows.filter(id=self.only.id)

    def deliveries(self, webhook: Webhook | None = None) -> DeliveryQuerySet:
        webhook = webhook or self.only
        if webhook is not None:
            # As in the API: with the owner's column Postgres may walk all of the owner's rows.
            return Delivery.objects.filter(webhook=webhook, webhook__owner_id=self.owner_id)
        return Delivery.objects.for_owner(self.owner_id)

    def events(self) -> QuerySet[Event]:
        return Event.objects.for_owner(self.owner_id)

    def redeliveries(self) -> QuerySet[Redelivery]:
        rows = redeliveries_of(self.owner_id)
        if self.only is not None:
            rows = rows.filter(scope__webhook_id=str(self.only.id))
        return rows

    def webhook(self, public_id: str) -> Webhook:
        return self._find(self.webhooks(), public_id, WEBHOOK_PREFIX)

    def delivery(self, public_id: str) -> Delivery:
        rows = self.deliveries().with_waits().select_related("event")
        return self._find(rows, public_id, DELIVERY_PREFIX)

    def event(self, public_id: str) -> Event:
        return self._find(self.events(), public_id, EVENT_PREFIX)

    def redelivery(self, public_id: str) -> Redelivery:
        return self._find(self.redeliveries(), public_id, REDELIVERY_PREFIX)

    def _find(self, rows: QuerySet[M], public_id: str, prefix: str) -> M:
        found = find(rows, public_id, prefix)
        self.found.append(found)
        return found

    def is_overtaken(self) -> bool:
        """Whether something that this request is about was deleted since it was found."""
        return any(map(was_deleted, self.found))

    def note(self, action: str, subject: Model | str, /, **changes: Any) -> None:
        """Write down what was done, and by which link where it was not the owner himself."""
        if self.link is not None:
            changes["portal_link"] = self.link.public_id
        audit.note(self.request, action, subject, actor=self.user, changes=changes)


def find(rows: QuerySet[M], public_id: str, prefix: str) -> M:
    """Return the row with this public id; raises Http404."""
    try:
        row_id = parse_public_id(public_id, prefix)
    except PublicIdInvalidError:
        raise Http404 from None
    found = rows.filter(pk=row_id).first()
    if found is None:
        raise Http404
    return found
