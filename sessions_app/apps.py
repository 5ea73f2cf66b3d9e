from django.apps import AppConfig


class SessionsConfig(AppConfig):
    name = "sessions_app"
    verbose_name = "Sessions"

    def ready(self) -> None:
        # These modules declare the event types and connect the signal receivers of the quota.
        from sessions_app import events, storage  # noqa: F401
