from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    name = "webhooks"
    verbose_name = "Webhooks"

    def ready(self) -> None:
        # Connects the signals; registers the system checks.
        from webhooks import (
            checks,  # noqa: F401
            signals,  # noqa: F401
        )
