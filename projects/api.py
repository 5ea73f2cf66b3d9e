"""The resource `/projects`; changes of projects cause events."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.routers import SimpleRouter

from projects.models import Project
from webhooks.api.base import (
    ApiFilters,
    ApiModelSerializer,
    ApiViewSet,
    BooleanFilter,
    CreateAction,
    DeleteAction,
    ListAction,
    RetrieveAction,
    UpdateAction,
)


class ProjectSerializer(ApiModelSerializer):
    """A project, below which sessions are held."""

    description = serializers.CharField(max_length=10_000, allow_blank=True, required=False)

    class Meta:
        model = Project
        fields = ["id", "name", "description", "archived", "created_at", "updated_at"]
        read_only_fields = ["created_at", "updated_at"]


class ProjectFilters(ApiFilters):
    archived = BooleanFilter()


@extend_schema_view(
    list=extend_schema(summary="List projects"),
    create=extend_schema(summary="Create a project", responses={201: ProjectSerializer}),
    retrieve=extend_schema(summary="Show a project"),
    partial_update=extend_schema(summary="Change a project"),
    destroy=extend_schema(summary="Delete a project with its sessions"),
)
class ProjectViewSet(
    ListAction, RetrieveAction, CreateAction, UpdateAction, DeleteAction, ApiViewSet[Project]
):
    serializer_class = ProjectSerializer
    filterset_class = ProjectFilters
    also_saved = ("updated_at",)

    def get_queryset(self) -> QuerySet[Project]:
        return Project.objects.filter(owner_id=self.user_id)

    def perform_create(self, values: dict[str, Any]) -> Project:
        return Project.objects.create(owner_id=self.user_id, **values)


def register(router: SimpleRouter) -> None:
    """Add this app's resources to the router of the whole API."""
    router.register("projects", ProjectViewSet, "project")
