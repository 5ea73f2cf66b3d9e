from django.apps import AppConfig


class ProjectsConfig(AppConfig):
    name = "projects"

    def ready(self) -> None:
        # They declare the event types.
        from projects import (
            billing,  # noqa: F401
            events,  # noqa: F401
        )
