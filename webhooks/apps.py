from typing import Any

from django.apps import AppConfig

from webhooks.conf import apply_defaults


class WebhooksConfig(AppConfig):
    name = "webhooks"
    verbose_name = "Webhooks"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Before the models load: they read settings.
        apply_defaults()

    def ready(self) -> None:
        # Connects the signals; registers the system checks.
        from webhooks import (
            checks,  # noqa: F401
            signals,  # noqa: F401
        )
