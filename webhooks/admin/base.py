"""The base classes of all screens: the chosen look, audited writes, public ids.

Other apps derive their model admins from OperatorAdmin and use nothing else of this package.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar

from django.contrib.admin import ShowFacets
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.admin.views.main import ERROR_FLAG
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import OperationalError, transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from webhooks.admin.access import permissions_of
from webhooks.admin.look import IS_PLAIN, LongPaginator, ModelAdmin
from webhooks.admin.operations import Operation
from webhooks.doors import audit
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import parse_public_id
from webhooks.postgres.sql import limit_statements, took_too_long


class OperatorAdmin(ModelAdmin):
    """A model admin that leaves an audit entry for every write.

    `operations` are the actions besides editing; each has its own URL.
    """

    operations: ClassVar[Iterable[type[Operation]]] = ()
    id_prefix: ClassVar[str] = ""
    list_fullwidth = True
    list_filter_submit = True
    compressed_fields = True
    # Facets would count whole tables, once for each choice of each filter.
    show_facets = ShowFacets.NEVER
    warn_unsaved_form = True

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                operation.url_path,
                self.admin_site.admin_view(operation.as_view(model_admin=self)),
                name=self.url_name(operation.name),
            )
            for operation in self.operations
        ]
        return own + list(super().get_urls())

    def url_name(self, name: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{name}"

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Model | None:
        """Also accept public ids such as `whk_0190…`."""
        if self.id_prefix and object_id.startswith(self.id_prefix):
            try:
                object_id = str(parse_public_id(object_id, self.id_prefix))
            except PublicIdInvalidError:
                return None
        found: Model | None = super().get_object(request, object_id, from_field)
        return found

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return no rows for a list after a filter's impossible value, which Django then leaves out."""
        rows = super().get_queryset(request)
        return rows.none() if ERROR_FLAG in request.GET else rows

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Return the values that the query string of an add form has for fields.

        Django hands texts to widgets that fail with what is no value of their field.
        """
        found = {}
        for name, text in super().get_changeform_initial_data(request).items():
            with suppress(FieldDoesNotExist, ValidationError, OverflowError):
                field: Any = self.opts.get_field(name)
                if field.concrete and not field.many_to_many:
                    value = field.to_python(text)
                    found[name] = value.astimezone() if isinstance(value, datetime) else value
        return found

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow only the filters that a list offers.

        Django allows every field of the model, so that users could guess hidden values.
        """
        return any(lookup in parameters_of(one) for one in self.list_filter)

    def render(
        self, request: HttpRequest, template: str, context: dict[str, Any], status: int = 200
    ) -> TemplateResponse:
        """Return one of our own pages in the admin's frame."""
        request.current_app = self.admin_site.name
        frame = self.admin_site.each_context(request)
        own = {"opts": self.opts, "model_admin": self} | permissions_of(request.user) | context
        if IS_PLAIN:  # unfold itself loads these files on every page
            own["page_media"] = self.media
        return TemplateResponse(request, template, frame | own, status=status)

    def note(self, request: HttpRequest, action: str, subject: Model | str, **changes: Any) -> None:
        """Write this request's audit entry."""
        audit.note(request, action, subject, actor=request.user, changes=changes)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        changes: dict[str, Any] = {
            name: [_shown(form.initial.get(name)), _shown(form.cleaned_data.get(name))]
            for name in form.changed_data
        }
        for formset in formsets:
            touched = formset.new_objects, formset.changed_objects, formset.deleted_objects
            if any(touched):
                name = str(formset.model._meta.verbose_name_plural)
                counts = zip(("added", "changed", "deleted"), map(len, touched), strict=True)
                changes[name] = dict(counts)
        verb = "change" if change else "create"
        self.note(request, f"{self.opts.model_name}.{verb}", form.instance, **changes)

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        self.note(request, f"{self.opts.model_name}.delete", obj, name=str(obj))
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for obj in queryset:
            self.note(request, f"{self.opts.model_name}.delete", obj, name=str(obj))
        super().delete_queryset(request, queryset)


def parameters_of(list_filter: Any) -> set[str]:
    """Return the query parameters of an entry of `list_filter`."""
    if isinstance(list_filter, tuple):
        field, _ = list_filter
        return {f"{field}__exact"}
    return {list_filter.parameter_name}


def _shown(value: Any) -> Any:
    if isinstance(value, Model):
        return str(value.pk)
    if isinstance(value, QuerySet):
        return [str(one) for one in value]
    if isinstance(value, list) and value and isinstance(value[0], Model):
        return [str(one) for one in value]
    return value


class ReadOnlyAdmin(OperatorAdmin):
    """Rows that cannot be added, edited or deleted by hand."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


LIST_SECONDS = 3
"""The maximum duration of a list's queries; beyond it, the page asks for narrower filters."""


class BigTableAdmin(ReadOnlyAdmin):
    """A list of millions of rows: never counted, newest first, stopped after LIST_SECONDS."""

    show_full_result_count = False
    paginator = LongPaginator
    list_per_page = 50
    list_max_show_all = 50
    list_disable_select_all = True
    # The only order, besides the reverse one, that an index serves.
    sortable_by = ("created", "when")
    ordering = ("-id",)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.GET.get(IS_POPUP_VAR):
            return HttpResponse(status=400)
        try:
            with transaction.atomic():
                limit_statements(LIST_SECONDS)
                response: HttpResponse = super().changelist_view(request, extra_context)
                if isinstance(response, TemplateResponse):
                    response.render()
                limit_statements(0)
                return response
        except OperationalError as problem:
            if not took_too_long(problem):
                raise
            return self.render(
                request,
                "admin/webhooks/too_broad.html",
                {"title": str(self.opts.verbose_name_plural).capitalize()},
                status=503,
            )
