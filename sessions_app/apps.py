from django.apps import AppConfig


class SessionsConfig(AppConfig):
    name = "sessions_app"
    verbose_name = "Sessions"

    def ready(self) -> None:
        # Declares the event types; watches the quota.
        from sessions_app import events, storage  # noqa: F401
