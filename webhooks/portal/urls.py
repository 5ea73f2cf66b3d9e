"""The URLs of the portal: each page twice, for signed-in owners and for the sessions of links."""

from collections.abc import Callable

from django.urls import URLPattern, URLResolver, include, path
from django.views.decorators.http import require_safe

from webhooks.portal import (
    check,
    deliveries,
    entry,
    events,
    figures,
    inbox,
    live,
    recovery,
    secrets,
    sharing,
    start,
    webhooks,
)
from webhooks.portal.door import View, for_links, for_users

READING: list[tuple[str, View, str]] = [
    ("", start.start, "start"),
    ("webhook/<str:webhook_id>/", webhooks.webhook, "webhook"),
    ("webhook/<str:webhook_id>/secret/", secrets.secret, "secret"),
    ("redelivery/<str:redelivery_id>/", recovery.progress, "redelivery"),
    ("redelivery/<str:redelivery_id>/part/", recovery.progress_part, "redelivery-part"),
    ("deliveries/", deliveries.deliveries, "deliveries"),
    ("delivery/<str:delivery_id>/", deliveries.delivery, "delivery"),
    ("find/", events.find, "find"),
    ("event/<str:event_id>/", events.event, "event"),
    ("event-types/", events.event_types, "event-types"),
    ("figures/", figures.figures, "figures"),
    ("inbox/part/", inbox.inbox_part, "inbox-part"),
    ("inbox/<uuid:request_id>/", inbox.inbox_request, "inbox-request"),
    ("live/", live.live, "live"),
    ("live/part/", live.live_part, "live-part"),
    ("sharing/", sharing.sharing, "sharing"),
]
ACTING: list[tuple[str, View, str]] = [
    ("webhook/new/", webhooks.add, "add"),
    ("webhook/<str:webhook_id>/settings/", webhooks.settings, "settings"),
    ("webhook/<str:webhook_id>/test/", webhooks.test, "test"),
    ("webhook/<str:webhook_id>/verify/", webhooks.verify, "verify"),
    ("webhook/<str:webhook_id>/enable/", webhooks.enable, "enable"),
    ("webhook/<str:webhook_id>/disable/", webhooks.disable, "disable"),
    ("webhook/<str:webhook_id>/delete/", webhooks.delete, "delete"),
    ("webhook/<str:webhook_id>/rotate-secret/", secrets.rotate, "rotate"),
    ("webhook/<str:webhook_id>/revoke-secrets/", secrets.revoke, "revoke"),
    ("webhook/<str:webhook_id>/recover/", recovery.recover, "recover"),
    ("redelivery/<str:redelivery_id>/cancel/", recovery.cancel, "redelivery-cancel"),
    ("delivery/<str:delivery_id>/resend/", deliveries.resend, "resend"),
    ("event/<str:event_id>/send/<str:webhook_id>/", events.send, "event-send"),
    ("event-types/<str:name>/", events.event_type, "event-type"),
    ("check/", check.check, "check"),
    ("inbox/", inbox.inbox, "inbox"),
    ("sharing/token/", sharing.add_token, "add-token"),
    ("sharing/token/<str:token_id>/revoke/", sharing.revoke_token, "revoke-token"),
    ("sharing/link/", sharing.add_link, "add-link"),
    ("sharing/link/<str:link_id>/revoke/", sharing.revoke_link, "revoke-link"),
]
"""These take a POST as well."""
FILES: list[tuple[str, View, str]] = [
    ("delivery/<str:delivery_id>/payload/", deliveries.payload, "delivery-payload"),
    ("event/<str:event_id>/payload/", events.payload, "event-payload"),
]
PAGES = [*ACTING, *READING, *FILES]
"""In this order: `webhook/new/` is no webhook's id."""


def _pages(let_in: Callable[[View], View]) -> list[URLPattern]:
    return [
        *(path(where, let_in(view), name=name) for where, view, name in ACTING),
        *(
            path(where, require_safe(let_in(view)), name=name)
            for where, view, name in (*READING, *FILES)
        ),
    ]


urlpatterns: list[URLPattern | URLResolver] = [
    path("login/", entry.Login.as_view(), name="portal-login"),
    path("logout/", entry.Logout.as_view(), name="portal-logout"),
    path("open/<str:key>/", entry.open_link, name="portal-open"),
    # Also in webhooks/wire/url_rules.py, by name.
    path("in/<str:token>", inbox.receive, name="portal-inbox"),
    path("brand.css", entry.brand_css, name="portal-brand"),
    path("s/<str:key>/", include((_pages(for_links), "portal-session"))),
    path("", include((_pages(for_users), "portal"))),
]
