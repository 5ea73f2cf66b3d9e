"""The URLs of the portal: each page twice, for signed-in owners and for the sessions of links."""

from collections.abc import Callable

from django.urls import URLPattern, URLResolver, include, path

from webhooks.portal import (
    check,
    deliveries,
    entry,
    events,
    figures,
    live,
    recovery,
    secrets,
    sharing,
    start,
    webhooks,
)
from webhooks.portal.door import View, for_links, for_users

PAGES: list[tuple[str, View, str]] = [
    ("", start.start, "start"),
    ("webhook/new/", webhooks.add, "add"),
    ("webhook/<str:webhook_id>/", webhooks.webhook, "webhook"),
    ("webhook/<str:webhook_id>/settings/", webhooks.settings, "settings"),
    ("webhook/<str:webhook_id>/test/", webhooks.test, "test"),
    ("webhook/<str:webhook_id>/enable/", webhooks.enable, "enable"),
    ("webhook/<str:webhook_id>/disable/", webhooks.disable, "disable"),
    ("webhook/<str:webhook_id>/delete/", webhooks.delete, "delete"),
    ("webhook/<str:webhook_id>/secret/", secrets.secret, "secret"),
    ("webhook/<str:webhook_id>/rotate-secret/", secrets.rotate, "rotate"),
    ("webhook/<str:webhook_id>/revoke-secrets/", secrets.revoke, "revoke"),
    ("webhook/<str:webhook_id>/recover/", recovery.recover, "recover"),
    ("redelivery/<str:redelivery_id>/", recovery.progress, "redelivery"),
    ("redelivery/<str:redelivery_id>/part/", recovery.progress_part, "redelivery-part"),
    ("redelivery/<str:redelivery_id>/cancel/", recovery.cancel, "redelivery-cancel"),
    ("deliveries/", deliveries.deliveries, "deliveries"),
    ("delivery/<str:delivery_id>/", deliveries.delivery, "delivery"),
    ("delivery/<str:delivery_id>/resend/", deliveries.resend, "resend"),
    ("find/", events.find, "find"),
    ("event/<str:event_id>/", events.event, "event"),
    ("event/<str:event_id>/send/<str:webhook_id>/", events.send, "event-send"),
    ("event-types/", events.event_types, "event-types"),
    ("event-types/<str:name>/", events.event_type, "event-type"),
    ("figures/", figures.figures, "figures"),
    ("check/", check.check, "check"),
    ("live/", live.live, "live"),
    ("live/part/", live.live_part, "live-part"),
    ("sharing/", sharing.sharing, "sharing"),
    ("sharing/token/", sharing.add_token, "add-token"),
    ("sharing/token/<str:token_id>/revoke/", sharing.revoke_token, "revoke-token"),
    ("sharing/link/", sharing.add_link, "add-link"),
    ("sharing/link/<str:link_id>/revoke/", sharing.revoke_link, "revoke-link"),
]


def _pages(let_in: Callable[[View], View]) -> list[URLPattern]:
    return [path(where, let_in(view), name=name) for where, view, name in PAGES]


urlpatterns: list[URLPattern | URLResolver] = [
    path("login/", entry.Login.as_view(), name="portal-login"),
    path("logout/", entry.Logout.as_view(), name="portal-logout"),
    path("open/<str:key>/", entry.open_link, name="portal-open"),
    path("brand.css", entry.brand_css, name="portal-brand"),
    path("s/<str:key>/", include((_pages(for_links), "portal-session"))),
    path("", include((_pages(for_users), "portal"))),
]
