"""Settings of django-unfold: the admin's name, colours, navigation and search."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _permission(*names: str) -> Callable[[HttpRequest], bool]:
    """Return a condition that shows a navigation entry to users with any of these permissions."""
    return lambda request: any(request.user.has_perm(name) for name in names)


def _entry(title: str, icon: str, model: str) -> dict[str, Any]:
    app, name = model.split(".")
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{name}_changelist"),
        "permission": _permission(f"{app}.view_{name}", f"{app}.change_{name}"),
    }


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "RemoteDevAI Webhooks",
    "SITE_HEADER": "RemoteDevAI",
    "SITE_SUBHEADER": "Webhooks",
    "SITE_SYMBOL": "webhook",
    "SITE_URL": None,
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda request: static("webhooks/icon.svg"),
        }
    ],
    # In the menu of the account.
    "ACCOUNT": {
        "navigation": [
            {
                "title": "Your second factor",
                "link": reverse_lazy("admin:webhooks_webhook_second-factor"),
            }
        ]
    },
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "6px",
    "DASHBOARD_CALLBACK": "webhooks.admin.home.dashboard",
    "STYLES": [lambda request: static("webhooks/admin.css")],
    "SCRIPTS": [lambda request: static("webhooks/admin.js")],
    "COLORS": {
        "primary": {
            "50": "oklch(96.2% .018 272.314)",
            "100": "oklch(93% .034 272.788)",
            "200": "oklch(87% .065 274.039)",
            "300": "oklch(78.5% .115 274.713)",
            "400": "oklch(67.3% .182 276.935)",
            "500": "oklch(58.5% .233 277.117)",
            "600": "oklch(51.1% .262 276.966)",
            "700": "oklch(45.7% .24 277.023)",
            "800": "oklch(39.8% .195 277.366)",
            "900": "oklch(35.9% .144 278.697)",
            "950": "oklch(25.7% .09 281.288)",
        }
    },
    # Searching the models one by one would scan the large tables.
    "COMMAND": {"search_callback": "webhooks.admin.search.find", "search_models": False},
    "SIDEBAR": {
        "show_search": True,
        "command_search": True,
        "navigation": [
            {
                "title": "Webhooks",
                "items": [
                    {"title": "Home", "icon": "monitoring", "link": reverse_lazy("admin:index")},
                    _entry("Webhooks", "webhook", "webhooks.webhook"),
                    _entry("Events", "bolt", "webhooks.event"),
                    _entry("Deliveries", "local_shipping", "webhooks.delivery"),
                    _entry("Redeliveries", "replay", "webhooks.redelivery"),
                    _entry("Queue", "stacks", "webhooks.workerheartbeat"),
                    _entry("Audit log", "history", "webhooks.auditentry"),
                ],
            },
            {
                "title": "Product",
                "separator": True,
                "items": [
                    _entry("Projects", "folder", "projects.project"),
                    _entry("Sessions", "terminal", "sessions_app.session"),
                    _entry("Recordings", "videocam", "sessions_app.recording"),
                    _entry("Agents", "smart_toy", "sessions_app.agent"),
                ],
            },
            {
                "title": "People",
                "separator": True,
                "items": [
                    _entry("Users", "person", "projects.user"),
                    _entry("Groups", "group", "auth.group"),
                    _entry("API tokens", "key", "webhooks.apitoken"),
                ],
            },
        ],
    },
}
