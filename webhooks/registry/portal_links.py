"""Links into the portal: each opens one session, of one owner, with what it may do there.

Keys have 256 random bits and only their SHA-256 is stored. A link and its session are one row, so
that revoking the row ends both, from the next request on.
"""

import hashlib
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from webhooks.errors import PortalLinkInvalidError, PortalLinkLimitError
from webhooks.ids import mark_of
from webhooks.models import PortalLink, Webhook
from webhooks.models.owners import is_owner_served, owner_key

OPENS_FOR = timedelta(minutes=15)
MAX_OPENS_FOR = timedelta(days=7)
SESSION_LASTS = timedelta(hours=8)
MAX_SESSION_LASTS = timedelta(days=30)
KEPT_FOR = timedelta(days=30)
"""How long a link that has ended stays in the owner's list."""
MAX_RETURN_URL = 2048
MAX_OPEN = 1000
"""An owner's links that can be opened or whose session lasts."""
MAX_ENDED = 1000
"""An owner's ended links that are kept."""
MAX_REMOVED = 1000
"""Ended links that the making of a new one removes."""


@sensitive_variables()
def create_link(
    owner: Any,
    *,
    capabilities: Collection[str] = ("view",),
    webhook: Webhook | None = None,
    opens_for: timedelta = OPENS_FOR,
    session_lasts: timedelta = SESSION_LASTS,
    return_url: str = "",
    created_by: Any = None,
) -> PortalLink:
    """Store a link into an owner's portal and return it; `link.key` is readable on it only.

    `webhook` limits the session to one of the owner's webhooks. `view` is always among the
    capabilities. The link can be opened once, within `opens_for`. Raises ValidationError, naming
    every field that is wrong, and PortalLinkLimitError.
    """
    owner_id = owner_key(owner)
    chosen = {PortalLink.Capability.VIEW.value, *capabilities}
    problems = _problems(owner_id, chosen, webhook, opens_for, session_lasts, return_url)
    if problems:
        raise ValidationError(problems)
    _make_room(owner_id)
    key = mark_of(owner_id) + secrets.token_urlsafe(32)
    now = timezone.now()
    link = PortalLink(
        owner_id=owner_id,
        webhook=webhook,
        capabilities=[value for value in PortalLink.Capability.values if value in chosen],
        return_url=return_url,
        digest=_digest(key),
        opens_until=now + opens_for,
        session_seconds=int(session_lasts.total_seconds()),
        created_by_id=getattr(created_by, "pk", created_by),
        created_at=now,
    )
    link.save(force_insert=True)
    link.key = key
    return link


def _problems(
    owner_id: Any,
    capabilities: set[str],
    webhook: Webhook | None,
    opens_for: timedelta,
    session_lasts: timedelta,
    return_url: str,
) -> dict[str, str]:
    problems = {}
    if unknown := capabilities - set(PortalLink.Capability.values):
        problems["capabilities"] = f"There is no capability {sorted(unknown)[0][:20]!r}."
    if webhook is not None and (webhook.owner_id != owner_id or webhook.deleted_at is not None):
        problems["webhook"] = "The owner has no such webhook."
    if not timedelta(0) < opens_for <= MAX_OPENS_FOR:
        problems["opens_for"] = f"The link can be opened for {MAX_OPENS_FOR.days} days at most."
    if not timedelta(minutes=1) <= session_lasts <= MAX_SESSION_LASTS:
        problems["session_lasts"] = (
            f"The session lasts a minute at least and {MAX_SESSION_LASTS.days} days at most."
        )
    if return_url and not _is_web_address(return_url):
        problems["return_url"] = "This is not an http or https URL."
    return problems


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_plain = url.isprintable() and not any(letter in url for letter in "\\ ")
    return (
        len(url) <= MAX_RETURN_URL
        and is_plain
        and parts.scheme in ("http", "https")
        and bool(parts.hostname)
    )


def _make_room(owner_id: Any) -> None:
    """Remove ended links that are old or many; raises PortalLinkLimitError."""
    rows, now = PortalLink.objects.filter(owner_id=owner_id), timezone.now()
    is_over = _is_over(now)
    if len(rows.exclude(is_over).values_list("id")[:MAX_OPEN]) == MAX_OPEN:
        raise PortalLinkLimitError(f"There are {MAX_OPEN:,} open links; revoke some, or wait.")
    before = now - KEPT_FOR
    old = Q(session_ends_at__lt=before) | Q(session_ends_at=None, opens_until__lt=before)
    ids = rows.order_by("-id").values_list("id", flat=True)
    removed = [
        *ids.filter(old).reverse()[:MAX_REMOVED],
        *ids.filter(is_over)[MAX_ENDED : MAX_ENDED + MAX_REMOVED],
    ]
    PortalLink.objects.filter(id__in=removed).delete()


def _is_over(now: datetime) -> Q:
    """Return the condition of links that open nothing any more."""
    ended = Q(session_ends_at__lt=now) | Q(session_ends_at=None, opens_until__lt=now)
    return ended | Q(revoked_at__isnull=False)


@sensitive_variables()
def open_link(key: str) -> tuple[PortalLink, str]:
    """Open a link's session, once, and return the link with the key of the session.

    Of two who open it at the same time one gets the session. Raises PortalLinkInvalidError.
    """
    link = PortalLink.objects.filter(digest=_digest(key)).first()
    if link is None or not _is_served(link):
        raise PortalLinkInvalidError
    session_key = mark_of(link.owner_id) + secrets.token_urlsafe(32)
    now = timezone.now()
    changed = PortalLink.objects.filter(
        id=link.id, opened_at=None, revoked_at=None, opens_until__gt=Now()
    ).update(
        opened_at=now,
        session_digest=_digest(session_key),
        session_ends_at=now + timedelta(seconds=link.session_seconds),
    )
    if not changed:
        raise PortalLinkInvalidError
    return link, session_key


@sensitive_variables()
def find_session(session_key: str) -> PortalLink | None:
    """Return the link whose open session has this key, with its owner; one statement.

    None where the session has ended or was revoked, its owner or who made the link is not active, or
    the only webhook that it shows was deleted.
    """
    links = PortalLink.objects.select_related("owner", "webhook", "created_by").filter(
        session_digest=_digest(session_key),
        revoked_at=None,
        session_ends_at__gt=Now(),
    )
    link = links.filter(Q(webhook_id=None) | Q(webhook__deleted_at=None)).first()
    return link if link is not None and _is_served(link) else None


def _is_served(link: PortalLink) -> bool:
    maker = link.created_by
    return is_owner_served(link.owner) and (maker is None or maker.is_active)


def revoke_link(link: PortalLink) -> bool:
    """End a link and its session; False where it was revoked before."""
    rows = PortalLink.objects.filter(id=link.id, revoked_at=None)
    return bool(rows.update(revoked_at=timezone.now()))


def links_of(owner: Any) -> Any:
    """Return the owner's links, newest first."""
    owner_id = owner_key(owner)
    return PortalLink.objects.filter(owner_id=owner_id).select_related("webhook").order_by("-id")


def live_first(owner: Any, ended: int) -> list[PortalLink]:
    """Return all links of an owner that can be revoked, then the newest ended ones."""
    rows, is_over = links_of(owner), _is_over(timezone.now())
    return [*rows.exclude(is_over), *rows.filter(is_over)[:ended]]


def facts_of(link: PortalLink) -> dict[str, Any]:
    """Return what the audit log says of a new link."""
    return {
        "owner": str(link.owner_id),
        "webhook": None if link.webhook is None else link.webhook.public_id,
        "capabilities": link.capabilities,
        "opens_until": link.opens_until.isoformat(),
        "session_seconds": link.session_seconds,
        "return_url": link.return_url,
    }


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
