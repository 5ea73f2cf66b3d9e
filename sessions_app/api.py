"""The resources `/sessions`, `/recordings` and `/agents`; their changes cause events."""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django_filters import UUIDFilter
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from projects.models import Project
from sessions_app.errors import TransitionNotAllowedError
from sessions_app.models import Agent, Recording, Session, SessionMessage
from webhooks.api.base import (
    LIST_PARAMETERS,
    AnyOfFilter,
    ApiFilters,
    ApiModelSerializer,
    ApiSerializer,
    ApiViewSet,
    ConflictError,
    CreateAction,
    DeleteAction,
    ListAction,
    NoInput,
    OwnedField,
    RetrieveAction,
    UpdateAction,
)

MAX_CONTENT = 40_000
"""The length limit of a message; an event with it fits into 256 KB."""
CONNECTED = ["ONLINE", "BUSY"]
"""The statuses of a connected agent."""
MAX_FILE_BYTES = 10**15
"""A petabyte; every JSON parser represents numbers up to this exactly."""


def change(move: Callable[..., None], **values: Any) -> None:
    """Call a method that changes the status; raises ConflictError (409) if that is not allowed now."""
    try:
        move(**values)
    except TransitionNotAllowedError as problem:
        raise ConflictError(str(problem)) from None


class SessionSerializer(ApiModelSerializer):
    """A coding session in a project."""

    project_id = OwnedField(Project.objects, source="project")

    class Meta:
        model = Session
        fields = ["id", "project_id", "title", "status", "started_at", "ended_at"]
        read_only_fields = ["status", "started_at", "ended_at"]


class MessageSerializer(ApiModelSerializer):
    """What was said in a session."""

    content = serializers.CharField(max_length=MAX_CONTENT)

    class Meta:
        model = SessionMessage
        fields = ["id", "sender", "content", "created_at"]
        read_only_fields = ["created_at"]


class SessionFilters(ApiFilters):
    project = UUIDFilter(field_name="project_id")
    status = AnyOfFilter(choices=Session.Status.choices)

    by_index = ApiFilters.by_index | {"project"}


@extend_schema_view(
    list=extend_schema(summary="List sessions"),
    create=extend_schema(summary="Start a session", responses={201: SessionSerializer}),
    retrieve=extend_schema(summary="Show a session"),
)
class SessionViewSet(ListAction, RetrieveAction, CreateAction, ApiViewSet[Session]):
    serializer_class = SessionSerializer
    filterset_class = SessionFilters
    action_parameters = {"messages": LIST_PARAMETERS}

    def get_queryset(self) -> QuerySet[Session]:
        # Responses need only the project's id, but the events of a change need its name.
        rows = Session.objects.filter(owner_id=self.user_id)
        return rows.select_related("project")

    def perform_create(self, values: dict[str, Any]) -> Session:
        return Session.objects.create(owner_id=self.user_id, **values)

    @extend_schema(summary="Pause a session", request=NoInput, responses=SessionSerializer)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        return self._move("pause")

    @extend_schema(summary="Resume a session", request=NoInput, responses=SessionSerializer)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        return self._move("resume")

    @extend_schema(summary="End a session", request=NoInput, responses=SessionSerializer)
    @action(detail=True, methods=["post"])
    def end(self, request: Request, pk: str) -> Response:
        return self._move("end")

    def _move(self, name: str) -> Response:
        session = self.get_object()
        self.read()
        change(getattr(session, name))
        return self.show(SessionSerializer, session)

    @extend_schema(
        operation_id="listMessages",
        summary="List a session's messages",
        responses=MessageSerializer(many=True),
    )
    @action(detail=True, filterset_class=ApiFilters)
    def messages(self, request: Request, pk: str) -> Response:
        return self.page(self.get_object().messages.all(), MessageSerializer)

    @extend_schema(
        operation_id="postMessage",
        summary="Post a message",
        request=MessageSerializer,
        responses={201: MessageSerializer},
    )
    @messages.mapping.post
    def post_message(self, request: Request, pk: str) -> Response:
        session = self.get_object()
        message = SessionMessage.objects.create(session=session, **self.read(MessageSerializer))
        return self.show(MessageSerializer, message, 201)


class RecordingSerializer(ApiModelSerializer):
    """A recording of a session."""

    session_id = OwnedField(Session.objects, source="session")
    # These are empty until the recording is complete, and an empty text is not a valid URL.
    url = serializers.CharField(read_only=True)
    thumbnail_url = serializers.CharField(read_only=True)

    class Meta:
        model = Recording
        fields = [
            "id", "session_id", "title", "url", "thumbnail_url", "duration_seconds",
            "file_size_bytes", "mime_type", "status", "error", "created_at",
        ]  # fmt: skip
        read_only_fields = [
            "url", "thumbnail_url", "duration_seconds", "file_size_bytes", "status", "error",
            "created_at",
        ]  # fmt: skip


class CompleteRecordingSerializer(ApiModelSerializer):
    """Where a recording is, and how large."""

    class Meta:
        model = Recording
        fields = ["url", "thumbnail_url", "duration_seconds", "file_size_bytes"]
        extra_kwargs = {
            "url": {"required": True, "allow_blank": False},
            "thumbnail_url": {"required": False},
            "duration_seconds": {"required": True},
            "file_size_bytes": {"required": True, "max_value": MAX_FILE_BYTES},
        }


class FailRecordingSerializer(ApiSerializer):
    """Why a recording failed."""

    error = serializers.CharField(max_length=10_000)


class RecordingFilters(ApiFilters):
    session = UUIDFilter(field_name="session_id")
    status = AnyOfFilter(choices=Recording.Status.choices)

    by_index = ApiFilters.by_index | {"session"}


@extend_schema_view(
    list=extend_schema(summary="List recordings"),
    create=extend_schema(summary="Create a recording", responses={201: RecordingSerializer}),
    retrieve=extend_schema(summary="Show a recording"),
)
class RecordingViewSet(ListAction, RetrieveAction, CreateAction, ApiViewSet[Recording]):
    serializer_class = RecordingSerializer
    filterset_class = RecordingFilters

    def get_queryset(self) -> QuerySet[Recording]:
        rows = Recording.objects.filter(session__owner_id=self.user_id)
        return rows.select_related("session")

    def perform_create(self, values: dict[str, Any]) -> Recording:
        return Recording.objects.create(**values)

    @extend_schema(
        summary="Mark a recording as ready",
        request=CompleteRecordingSerializer,
        responses=RecordingSerializer,
    )
    @action(detail=True, methods=["post"])
    def complete(self, request: Request, pk: str) -> Response:
        recording = self.get_object()
        change(recording.complete, **self.read(CompleteRecordingSerializer))
        return self.show(RecordingSerializer, recording)

    @extend_schema(
        summary="Mark a recording as failed",
        request=FailRecordingSerializer,
        responses=RecordingSerializer,
    )
    @action(detail=True, methods=["post"])
    def fail(self, request: Request, pk: str) -> Response:
        recording = self.get_object()
        change(recording.fail, error=self.read(FailRecordingSerializer)["error"])
        return self.show(RecordingSerializer, recording)


class AgentSerializer(ApiModelSerializer):
    """A program that runs sessions on a desktop."""

    class Meta:
        model = Agent
        fields = ["id", "name", "platform", "version", "status", "last_seen_at"]
        read_only_fields = ["status", "last_seen_at"]


class SetAgentStatusSerializer(ApiSerializer):
    """What a connected agent does."""

    status = serializers.ChoiceField(
        choices=CONNECTED,
        help_text="The status of a connected agent: ONLINE is idle, BUSY is working.",
    )


class DisconnectAgentSerializer(ApiSerializer):
    """Why an agent went away."""

    reason = serializers.CharField(max_length=200, allow_null=True, default=None)


class AgentFilters(ApiFilters):
    status = AnyOfFilter(choices=Agent.Status.choices)


@extend_schema_view(
    list=extend_schema(summary="List agents"),
    create=extend_schema(summary="Register an agent", responses={201: AgentSerializer}),
    retrieve=extend_schema(summary="Show an agent"),
    partial_update=extend_schema(summary="Change an agent's name, platform or version"),
    destroy=extend_schema(summary="Remove an agent"),
)
class AgentViewSet(
    ListAction, RetrieveAction, CreateAction, UpdateAction, DeleteAction, ApiViewSet[Agent]
):
    serializer_class = AgentSerializer
    filterset_class = AgentFilters

    def get_queryset(self) -> QuerySet[Agent]:
        return Agent.objects.filter(owner_id=self.user_id)

    def perform_create(self, values: dict[str, Any]) -> Agent:
        return Agent.objects.create(owner_id=self.user_id, **values)

    @extend_schema(summary="Connect an agent", request=NoInput, responses=AgentSerializer)
    @action(detail=True, methods=["post"])
    def connect(self, request: Request, pk: str) -> Response:
        agent = self.get_object()
        self.read()
        change(agent.connect)
        return self.show(AgentSerializer, agent)

    @extend_schema(
        summary="Disconnect an agent", request=DisconnectAgentSerializer, responses=AgentSerializer
    )
    @action(detail=True, methods=["post"])
    def disconnect(self, request: Request, pk: str) -> Response:
        agent = self.get_object()
        change(agent.disconnect, reason=self.read(DisconnectAgentSerializer)["reason"])
        return self.show(AgentSerializer, agent)

    @extend_schema(
        operation_id="setAgentStatus",
        summary="Set an agent to busy or idle",
        request=SetAgentStatusSerializer,
        responses=AgentSerializer,
    )
    @action(detail=True, methods=["post"])
    def status(self, request: Request, pk: str) -> Response:
        agent = self.get_object()
        is_busy = self.read(SetAgentStatusSerializer)["status"] == Agent.Status.BUSY
        change(agent.set_busy if is_busy else agent.set_idle)
        return self.show(AgentSerializer, agent)


def register(router: SimpleRouter) -> None:
    """Add this app's resources to the router of the whole API."""
    router.register("sessions", SessionViewSet, "session")
    router.register("recordings", RecordingViewSet, "recording")
    router.register("agents", AgentViewSet, "agent")
