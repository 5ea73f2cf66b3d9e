"""The base classes of every app's API; other apps import this module and no other of this room.

A viewset declares its owner-scoped queryset, serializers and actions. It inherits token scopes,
throttles, ids with prefixes, keyset pages, strict query parameters, Idempotency-Key, problems, and
an audit log. Triggered events, and what happens in sessions and to agents, leave no audit entries:
the events themselves are their record.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar, cast
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from django.db import connection, transaction
from django.db.models import Model, QuerySet
from django_filters.rest_framework import DjangoFilterBackend, FilterSet
from rest_framework import exceptions
from rest_framework.authentication import SessionAuthentication
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import SAFE_METHODS
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.settings import APISettings
from rest_framework.viewsets import GenericViewSet

from webhooks.api import idempotency, overtaking, pagination, problems, throttles
from webhooks.api.authentication import BearerAuthentication
from webhooks.api.errors import (
    ConflictError,
    ParametersInvalidError,
    PreconditionFailedError,
)
from webhooks.api.filters import AnyOfFilter, ApiFilters, BooleanFilter
from webhooks.api.parsers import StrictJSONParser
from webhooks.api.permissions import HasScope, owner_id_of
from webhooks.api.renderers import ApiRenderer
from webhooks.api.schema import ApiSchema
from webhooks.api.serializers import (
    ApiModelSerializer,
    ApiSerializer,
    NoInput,
    OwnedField,
    PublicIdField,
)
from webhooks.doors import audit
from webhooks.doors.allowances import Allowance
from webhooks.doors.limits import READ_SECONDS, WRITE_SECONDS
from webhooks.errors import EncryptionKeyError, PublicIdInvalidError
from webhooks.ids import parse_public_id

__all__ = [
    "LIST_PARAMETERS",
    "AnyOfFilter",
    "ApiFilters",
    "ApiModelSerializer",
    "ApiSerializer",
    "ApiViewSet",
    "BooleanFilter",
    "ConflictError",
    "CreateAction",
    "DeleteAction",
    "ListAction",
    "NoInput",
    "OwnedField",
    "ParametersInvalidError",
    "PublicIdField",
    "RetrieveAction",
    "UpdateAction",
]

M = TypeVar("M", bound=Model)

LIST_PARAMETERS = pagination.PARAMETERS | ApiFilters.base_filters.keys()
"""Of a list that is not a viewset's own, such as the messages of a session."""


class _Negotiation(DefaultContentNegotiation):
    settings = APISettings({"URL_FORMAT_OVERRIDE": None})  # type: ignore[arg-type, assignment]


class _Framework(GenericViewSet[M]):
    """The parts of the framework that the API uses, whatever REST_FRAMEWORK says: a project has that
    for an API of its own. With DEBUG also the browsable API, for people who are logged in to the admin.
    (Fields of times and days are in webhooks/api/serializers.py, the form of JSON in renderers.py.)
    """

    authentication_classes = [BearerAuthentication]
    permission_classes = [HasScope]
    throttle_classes = []
    parser_classes = [StrictJSONParser]
    renderer_classes = [ApiRenderer]
    pagination_class: type[Any] | None = pagination.KeysetPages
    filter_backends = [DjangoFilterBackend]
    metadata_class = None
    versioning_class = None
    content_negotiation_class = _Negotiation
    schema = ApiSchema()

    def get_authenticators(self) -> list[Any]:
        own = super().get_authenticators()
        return [*own, SessionAuthentication()] if settings.DEBUG else own

    def get_renderers(self) -> list[Any]:
        own = super().get_renderers()
        return [*own, BrowsableAPIRenderer()] if settings.DEBUG else own

    def get_exception_handler(self) -> Any:
        return problems.answer_exception


class ApiViewSet(_Framework[M]):
    """The base of every resource."""

    id_prefix: ClassVar[str | None] = None
    """The prefix of the ids in paths; None means plain UUIDs."""
    action_scopes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The scopes of actions; by default `read` for safe methods and `write` for others."""
    action_limits: ClassVar[Mapping[str, str]] = {}
    """Actions with a limit of their own in WEBHOOKS_API_REQUESTS_PER_MINUTE."""
    action_parameters: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Query parameters of actions, beside filters and pages of lists."""
    non_atomic_actions: ClassVar[frozenset[str]] = frozenset()
    """Actions that must not run in one transaction with their Idempotency-Key."""
    unlimited_actions: ClassVar[frozenset[str]] = frozenset()
    """Actions that begin their transactions themselves, or somewhere else."""

    changes_serializer_class: type[Serializer[Any]] | None = None
    """Of a change, where it takes other fields than a list shows."""
    detail_serializer_class: type[Serializer[Any]] | None = None
    """Of one object by itself, where it shows more than in a list."""
    filterset_class: type[FilterSet] = ApiFilters
    http_method_names = ["get", "post", "put", "patch", "delete", "head"]
    lookup_value_regex = "[^/]+"

    _object_id: Any = None
    """Of the object that this request is about, once it was found."""

    # Before an action runs.

    def required_scopes(self) -> tuple[str, ...]:
        """Return the scopes that a token needs for this request."""
        default = "read" if self.request.method in SAFE_METHODS else "write"
        return self.action_scopes.get(self.action or "", (default,))

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.allowances: list[Allowance] = []
        super().initial(request, *args, **kwargs)
        if self.action is None:  # 405 comes next
            return
        self._check_parameters(request)
        key = request.headers.get(idempotency.HEADER)
        method = str(request.method).lower()
        handler = getattr(self, method)
        is_atomic = self.action not in self.non_atomic_actions
        if request.method == "POST" and key is not None:
            handler = partial(idempotency.answer_once, key, handler, is_atomic=is_atomic)
        if not is_atomic:
            handler = partial(overtaking.or_not_found, self, handler)
        elif self.action not in self.unlimited_actions:
            limit = READ_SECONDS if self._only_reads() else WRITE_SECONDS
            handler = partial(overtaking.in_one_transaction, self, limit, handler)
        setattr(self, method, handler)

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        # A DELETE answers with nothing, which can be had in any form.
        return super().perform_content_negotiation(request, force or request.method == "DELETE")

    def get_throttles(self) -> list[Any]:
        names = ["token"]
        if self.action in self.action_limits:
            names.append(self.action_limits[self.action])
        return [throttles.RateThrottle(name) for name in names]

    def _check_parameters(self, request: Request) -> None:
        known = self.action_parameters.get(self.action or "", frozenset())
        if self._is_list():
            pages = cast(type[pagination.KeysetPages], self.pagination_class)
            known = known | pages.parameters | self.filterset_class.base_filters.keys()
        wrong = {}
        for name, values in request.query_params.lists():
            if name not in known:
                names = f"known are {', '.join(sorted(known))}" if known else "there are none here"
                wrong[name] = [f"There is no such parameter; {names}."]
            elif len(values) > 1:
                wrong[name] = ["This parameter is given more than once."]
            elif not values[0].replace(",", " ").strip() or "\0" in values[0]:
                wrong[name] = ["This parameter is empty or holds a NUL character."]
        if wrong:
            raise ParametersInvalidError(wrong)

    def _is_list(self) -> bool:
        return self.action == "list" and self.pagination_class is not None

    # After it.

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, (exceptions.NotAuthenticated, exceptions.AuthenticationFailed)):
            refused = throttles.RateThrottle("refused", by_address=True)
            if not refused.allow_request(self.request, self):
                exc = exceptions.Throttled(refused.wait())
        return super().handle_exception(exc)

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        for name, value in throttles.headers_of(getattr(self, "allowances", [])).items():
            response[name] = value
        return response

    # For actions.

    @property
    def user_id(self) -> Any:
        """The id of the authenticated user."""
        return self.request.user.pk

    @cached_property
    def owner_id(self) -> Any:
        """The id of the owner for whom the request acts; raises PermissionDenied without one."""
        return owner_id_of(self.request)

    def get_object(self) -> M:
        """Return the object of the path; raises NotFound unless the owner-scoped queryset has it."""
        text = self.kwargs["pk"]
        condition = None if self._only_reads() else self.request.headers.get("If-Match")
        try:
            row_id = UUID(text) if self.id_prefix is None else parse_public_id(text, self.id_prefix)
            rows = self.get_queryset()
            if condition is not None and connection.in_atomic_block:
                # Or two changes of the same state would both find it as they knew it.
                rows = rows.select_for_update(no_key=True, of=("self",))
            found: M = rows.get(pk=row_id)
        except (ValueError, PublicIdInvalidError, ObjectDoesNotExist):
            raise self._not_found() from None
        self._object_id = found.pk
        if condition is not None and condition != "*":
            tags = {tag.strip() for tag in condition.split(",")}
            if self.etag_of(found) not in tags:
                raise PreconditionFailedError
        return found

    def etag_of(self, value: Any) -> str | None:
        """Return the ETag of an object; None where its kind has none."""
        return None

    def _not_found(self) -> exceptions.NotFound:
        name = self.get_queryset().model._meta.verbose_name
        return exceptions.NotFound(f"You have no {name} with this id.")

    def check_object_is_there(self) -> None:
        """Raise NotFound where the object that this request changes was deleted meanwhile."""
        if self._object_id is None or self._only_reads():
            return
        if not self.get_queryset().filter(pk=self._object_id).exists():
            raise self._not_found()

    def _only_reads(self) -> bool:
        return self.request.method in SAFE_METHODS

    def note(self, action: str, subject: Model | str, /, **changes: Any) -> None:
        """Write this request's audit entry; call it in the transaction of the action."""
        audit.note(self.request, action, subject, actor=self.request.user, changes=changes)

    def read(self, serializer_class: type[Serializer[Any]] = NoInput) -> dict[str, Any]:
        """Return the validated body."""
        serializer = serializer_class(data=self.request.data, context=self.get_serializer_context())
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def show(
        self, serializer_class: Any, value: Any, status: int = 200, **options: Any
    ) -> Response:
        """Respond with a value, or with several (`many=True`)."""
        context = self.get_serializer_context()
        shown = serializer_class(value, context=context, **options).data
        response = Response(shown, status=status)
        if status == 201 and self.action == "create":
            response["Location"] = f"{self.request.path}/{shown['id']}"
        if (etag := self.etag_of(value)) is not None:
            response["ETag"] = etag
        return response

    def page(
        self,
        queryset: QuerySet[Any],
        serializer_class: Any,
        filterset_class: type[ApiFilters] = ApiFilters,
    ) -> Response:
        """Respond with one page of rows, filtered by the query string."""
        paginator = pagination.KeysetPages()
        filters = filterset_class(self.request.query_params, queryset, request=self.request)
        if not filters.is_valid():
            raise ParametersInvalidError(_error_lists(filters.errors))
        rows = paginator.paginate_queryset(
            filters.qs, self.request, self, scanned=filters.without_scanning()
        )
        context = self.get_serializer_context()
        return paginator.get_paginated_response(
            serializer_class(rows, many=True, context=context).data
        )


def _present(changed: Model, name: str) -> Any:
    """Return a value before its replacement, or None if it cannot be decrypted."""
    try:
        return getattr(changed, name)
    except EncryptionKeyError:
        return None


def _error_lists(errors: Mapping[str, Iterable[Any]]) -> dict[str, list[str]]:
    return {name: [str(message) for message in messages] for name, messages in errors.items()}


class ListAction:
    def list(self: Any, request: Request) -> Response:
        return self.page(self.get_queryset(), self.serializer_class, self.filterset_class)  # type: ignore[no-any-return]


class RetrieveAction:
    def retrieve(self: Any, request: Request, pk: str) -> Response:
        return self.show(_detail(self), self.get_object())  # type: ignore[no-any-return]


class CreateAction:
    """Needs perform_create(values), which returns the new object."""

    @transaction.atomic
    def create(self: Any, request: Request) -> Response:
        values = self.read(self.serializer_class)
        created = self.perform_create(values)
        self.note(f"{_kind(created)}.create", created, **values)
        return self.show(self.serializer_class, created, 201)  # type: ignore[no-any-return]


class UpdateAction:
    """Saves the changed fields; a viewset may define perform_update(object, values)."""

    also_saved: ClassVar[tuple[str, ...]] = ()
    """Fields that the model sets at every save."""

    def perform_update(self, changed: Any, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(changed, name, value)
        changed.save(update_fields=[*values, *self.also_saved])

    @transaction.atomic
    def partial_update(self: Any, request: Request, pk: str) -> Response:
        changed = self.get_object()
        serializer_class = self.changes_serializer_class or self.serializer_class
        serializer = serializer_class(
            changed, data=request.data, partial=True, context=self.get_serializer_context()
        )
        serializer.is_valid(raise_exception=True)
        values = serializer.validated_data
        before = {name: _present(changed, name) for name in values}
        self.perform_update(changed, values)
        changes = {
            name: [before[name], value] for name, value in values.items() if before[name] != value
        }
        self.note(f"{_kind(changed)}.change", changed, **changes)
        return self.show(_detail(self), changed)  # type: ignore[no-any-return]


class DeleteAction:
    """Deletes the object; a viewset may define perform_destroy(object)."""

    def perform_destroy(self, doomed: Any) -> bool:
        """Return False where another request has deleted it since it was found."""
        deleted, _ = doomed.delete()
        return bool(deleted)

    @transaction.atomic
    def destroy(self: Any, request: Request, pk: str) -> Response:
        doomed = self.get_object()
        self.note(f"{_kind(doomed)}.delete", doomed, name=str(doomed))
        if not self.perform_destroy(doomed):
            # The transaction takes the entry back.
            raise self._not_found()
        return Response(status=204)


def _detail(view: ApiViewSet[Any]) -> Any:
    return view.detail_serializer_class or view.serializer_class


def _kind(subject: Model) -> str:
    return str(subject._meta.model_name)
