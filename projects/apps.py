from django.apps import AppConfig
from django.db.models.signals import post_migrate


class ProjectsConfig(AppConfig):
    name = "projects"

    def ready(self) -> None:
        # They declare the event types.
        from projects import (
            billing,  # noqa: F401
            events,  # noqa: F401
        )
        from projects.groups import create_groups

        # After the handler of Django's that makes the permissions.
        post_migrate.connect(create_groups, dispatch_uid="projects.groups")
