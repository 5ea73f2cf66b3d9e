from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from webhooks.conf import apply_defaults


class WebhooksConfig(AppConfig):
    name = "webhooks"
    verbose_name = "Webhooks"
    # The migrations' own; without it `makemigrations` would write the project's kind into this package.
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Before the models load: they read settings.
        apply_defaults()

    def ready(self) -> None:
        # Importing them registers the system checks and connects the signals.
        import webhooks.repair.checks
        import webhooks.tracking.checks  # noqa: F401
        from webhooks.tracking.declaration import settle_pending
        from webhooks.tracking.signals import watch_deleted_owners

        settle_pending()
        watch_deleted_owners()

        if settings.WEBHOOKS_WAKEUP == "rq" and find_spec("rq"):
            # Now, and not in the first save that causes an event.
            import_module("webhooks.outbox.hints")
        if settings.WEBHOOKS_TRACING:
            _load_tracing()


def _load_tracing() -> None:
    try:
        import_module("webhooks.outbox.otel")
    except ModuleNotFoundError as missing:
        raise ImproperlyConfigured(
            f"WEBHOOKS_TRACING is on, and the module {missing.name} is missing: "
            "pip install remotedevai-webhooks[tracing]."
        ) from missing
