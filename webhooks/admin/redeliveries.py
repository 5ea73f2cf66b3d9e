"""Redeliveries: choose, count, confirm, then watch; the same rows as the API's and the command's."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.views import ChangeList

from webhooks import access, catalog, service
from webhooks.admin.base import ReadOnlyAdmin
from webhooks.admin.display import bounded
from webhooks.admin.filters import owner_of, since_of, webhook_of
from webhooks.admin.operations import Operation
from webhooks.admin.template_tags import ago, chip
from webhooks.choices import DeliveryStatus
from webhooks.errors import PublicIdInvalidError, RedeliveryScopeError
from webhooks.ids import DELIVERY_PREFIX, EVENT_PREFIX, REDELIVERY_PREFIX, parse_public_id
from webhooks.models import Redelivery, Webhook
from webhooks.repair import redelivery, redelivery_progress
from webhooks.repair.redelivery_scope import REPEATABLE, Scope, matching, scope_of, warnings_of

COUNTED_AT_MOST = 100_000
AT_ONCE = timedelta(seconds=5)
MAX_SELECTED = 1000
SHOWN_OUTCOMES = 50
TONES = {"running": "info", "done": "success", "cancelled": "muted", "failed": "danger"}


class ScopeForm(forms.Form):
    """Which deliveries; its fields have the names of the delivery list's filters."""

    webhook = forms.CharField(required=False, help_text="Id (whk_…) or name")
    owner = forms.CharField(required=False, help_text="E-mail address or id")
    event = forms.CharField(required=False, help_text="Id of one event (evt_…)")
    type = forms.ChoiceField(required=False, label="Event type")
    status = forms.MultipleChoiceField(
        required=False,
        widget=forms.CheckboxSelectMultiple,
        choices=[choice for choice in DeliveryStatus.choices if choice[0] in REPEATABLE],
    )
    since = forms.CharField(
        required=False, help_text="1h, 24h, 7d, 30d or a time such as 2026-11-24T08:00Z"
    )
    until = forms.CharField(required=False, help_text="A time; empty for now")
    limit = forms.IntegerField(
        required=False, min_value=1, help_text="At most so many, the oldest first"
    )
    rate_limit = forms.FloatField(
        required=False, min_value=0.001, max_value=10_000, label="Deliveries per second"
    )
    deliveries = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = [one.name for one in catalog.all_types()]
        self.fields["type"].choices = [("", "any"), *((name, name) for name in names)]  # type: ignore[attr-defined]

    def clean_webhook(self) -> Any:
        return _looked_up(webhook_of, self.cleaned_data["webhook"], "There is no such webhook.")

    def clean_owner(self) -> Any:
        return _looked_up(owner_of, self.cleaned_data["owner"], "Nobody has this address or id.")

    def clean_event(self) -> Any:
        return _parsed(self.cleaned_data["event"], EVENT_PREFIX)

    def clean_since(self) -> datetime | None:
        return self._time("since")

    def clean_until(self) -> datetime | None:
        return self._time("until")

    def clean_deliveries(self) -> Any:
        texts = [text for text in self.cleaned_data["deliveries"].split(",") if text]
        if len(texts) > MAX_SELECTED:
            raise forms.ValidationError(f"Select at most {MAX_SELECTED} deliveries.")
        return tuple(_parsed(text, DELIVERY_PREFIX) for text in texts)

    def _time(self, name: str) -> datetime | None:
        value = self.cleaned_data[name].strip()
        moment = since_of(value, timezone.now())
        if value and moment is None:
            raise forms.ValidationError("This is not a time.")
        return moment

    def scope(self) -> Scope:
        """Return the scope; raises RedeliveryScopeError where it says nothing."""
        data = self.cleaned_data
        selected = data["deliveries"]
        default = sorted(REPEATABLE) if selected else [DeliveryStatus.FAILED.value]
        scope = Scope(
            delivery_ids=selected or None,
            webhook_id=data["webhook"],
            owner_id=data["owner"],
            event_id=data["event"],
            event_type=data["type"] or None,
            statuses=tuple(data["status"] or default),
            since=data["since"],
            until=data["until"],
            limit=data["limit"],
        )
        scope.check()
        return scope


def _looked_up(look_up: Any, value: str, problem: str) -> Any:
    value = value.strip()
    found = look_up(value) if value else None
    if value and found is None:
        raise forms.ValidationError(problem)
    return found


def _parsed(text: str, prefix: str) -> Any:
    text = text.strip()
    try:
        return parse_public_id(text, prefix) if text else None
    except PublicIdInvalidError as problem:
        raise forms.ValidationError(str(problem)) from None


class NewRedelivery(Operation):
    """Opened with filters in the query string it counts; posted it begins."""

    name = "new"
    url_path = "new/"
    deed = access.REDELIVER
    title = "Redeliver"
    button = "Redeliver"
    form_class = ScopeForm
    template = "admin/webhooks/redelivery/new.html"
    count: int | None = None
    scope: Scope | None = None
    confirmation: ScopeForm | None = None
    """The same choice, hidden in the form that begins."""

    def find(self, object_id: str | None) -> None:
        return None

    def back_url(self) -> str:
        return reverse("admin:webhooks_redelivery_changelist")

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.GET:
            return self.ask(ScopeForm(initial={"status": [DeliveryStatus.FAILED]}))
        query = request.GET.copy()
        drop_sending(query)
        if not query.getlist("status") and "deliveries" not in query:
            query.setlist("status", [DeliveryStatus.FAILED.value])
        form = ScopeForm(query)
        self.confirmation = ScopeForm(query, auto_id=False)
        if form.is_valid():
            self.count_matching(form)
        return self.ask(form)

    def count_matching(self, form: ScopeForm) -> None:
        try:
            scope = form.scope()
        except RedeliveryScopeError as problem:
            form.add_error(None, str(problem))
            return
        self.scope = scope
        most = min(COUNTED_AT_MOST, scope.limit or COUNTED_AT_MOST)
        self.count = matching(scope)[: most + (scope.limit is None)].count()

    def context(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "counted_at_most": COUNTED_AT_MOST,
            "confirmation": self.confirmation,
        }

    def warnings(self) -> list[str]:
        return [] if self.scope is None else warnings_of(self.scope)

    def act(self, form: forms.Form) -> Any:
        scope = self.scope = cast(ScopeForm, form).scope()
        if not matching(scope).exists():
            raise RedeliveryScopeError("No delivery fits, so there is nothing to send again.")
        begun = service.redeliver(
            scope, requested_by=self.request.user, rate_limit=form.cleaned_data["rate_limit"]
        )
        facts = begun.scope | {"matched": begun.matched_count}
        if "delivery_ids" in facts:
            facts["delivery_ids"] = len(facts["delivery_ids"])
        self.note("redelivery.create", begun, **facts)
        return self.done(
            f"{bounded(begun.matched_count)} deliveries are sent again.", self.url_of(begun)
        )


def drop_sending(query: QueryDict) -> None:
    """What is in flight cannot be redelivered; a filter may name it all the same."""
    statuses = [status for status in query.getlist("status") if status in REPEATABLE]
    if "status" in query:
        query.setlist("status", statuses)


class CancelRedelivery(Operation):
    name = "cancel"
    deed = access.REDELIVER
    title = "Stop this redelivery"
    text = "What it has queued already is still sent."
    button = "Stop"
    is_dangerous = True

    def act(self, form: forms.Form) -> Any:
        if not redelivery.cancel(self.subject):
            raise RedeliveryScopeError("It has ended already.")
        self.note("redelivery.cancel", status=["running", "cancelled"])
        return self.done("It is stopped.")


class DismissRedelivery(Operation):
    name = "dismiss"
    deed = access.REDELIVER
    title = "Dismiss this redelivery"
    text = "It leaves the home page; it stays in the list of redeliveries."
    button = "Dismiss"

    def back_url(self) -> str:
        return reverse("admin:index")

    def act(self, form: forms.Form) -> Any:
        Redelivery.objects.filter(pk=self.subject.pk, dismissed_at=None).update(
            dismissed_at=timezone.now()
        )
        self.note("redelivery.dismiss")
        return self.done("It is dismissed.")


class RedeliveryList(ChangeList):
    """The page of redeliveries, with the names of their webhooks."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: list[Any] = list(self.result_list)  # type: ignore[has-type]
        names = webhook_names(rows)
        for row in rows:
            row.names = names
        self.result_list = rows


@admin.register(Redelivery)
class RedeliveryAdmin(ReadOnlyAdmin):
    id_prefix = REDELIVERY_PREFIX
    list_display = ("named", "state", "what", "counts", "requested_by", "created")
    list_display_links = ("named",)
    list_select_related = ("requested_by",)
    list_per_page = 50
    ordering = ("-id",)
    sortable_by = ()
    actions = None
    list_before_template = "admin/webhooks/redelivery/above_list.html"
    operations: ClassVar[Iterable[Any]] = (NewRedelivery, CancelRedelivery, DismissRedelivery)

    def get_urls(self) -> list[URLPattern]:
        progress = path(
            "<path:object_id>/progress/",
            self.admin_site.admin_view(self.progress_view),
            name=self.url_name("progress"),
        )
        return [progress, *super().get_urls()]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RedeliveryList

    @display(description="Redelivery")
    def named(self, row: Redelivery) -> SafeString:
        kind = "replay" if row.is_replay else "redelivery"
        return format_html(
            '<span class="op-two"><b>{}</b><small class="op-mono">{}</small></span>',
            kind,
            row.public_id,
        )

    @display(description="State")
    def state(self, row: Redelivery) -> SafeString:
        return chip(row.get_status_display(), TONES[row.status])

    @display(description="Asked for")
    def what(self, row: Any) -> str:
        return describe(row, row.names)

    @display(description="Queued")
    def counts(self, row: Redelivery) -> str:
        return f"{row.queued_count:,} of {_matched(row)}"

    @display(description="Started")
    def created(self, row: Redelivery) -> SafeString | str:
        return ago(row.created_at)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        row = self.find(request, object_id)
        progress_url = reverse("admin:webhooks_redelivery_progress", args=[row.pk])
        context = {
            "title": str(row),
            "original": row,
            "redelivery": row,
            "what": describe(row, webhook_names([row])),
            "warnings": warnings_of(scope_of(row)),
            "outcomes": redelivery_progress.outcomes(row)[:SHOWN_OUTCOMES],
            "progress_url": f"{progress_url}?outcomes=1",
        }
        return self.render(
            request, "admin/webhooks/redelivery/detail.html", context | progress_context(row)
        )

    def progress_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The bar, and what became of it by webhook, for the pages that show it move."""
        row = self.find(request, object_id)
        context = {"redelivery": row} | progress_context(row)
        shown = render_to_string("admin/webhooks/redelivery/progress.html", context, request)
        if "outcomes" in request.GET:
            context = {"outcomes": redelivery_progress.outcomes(row)[:SHOWN_OUTCOMES]}
            shown += render_to_string("admin/webhooks/redelivery/outcomes.html", context, request)
        return HttpResponse(shown, headers={"Cache-Control": "no-store"})

    def find(self, request: HttpRequest, object_id: str) -> Redelivery:
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, object_id)
        if not isinstance(row, Redelivery):
            raise Http404
        return row


def _matched(row: Redelivery) -> str:
    """Return how many it is about; while it runs the count may have stopped at a bound."""
    if row.status == Redelivery.Status.RUNNING:
        return bounded(row.matched_count)
    return f"{row.matched_count:,}"


def progress_context(row: Redelivery) -> dict[str, Any]:
    """How far a redelivery is, as parts of a bar in percent."""
    progress = redelivery_progress.progress(row)
    whole = max(progress.matched if row.status == "running" else progress.queued, 1)
    succeeded, failed, retrying = (
        100 * count / whole for count in (progress.succeeded, progress.failed, progress.retrying)
    )
    is_running = row.status == Redelivery.Status.RUNNING
    is_over = not is_running and progress.is_over
    return {
        "progress": progress,
        "matched": _matched(row),
        "percent": 100 if is_over else min(int(succeeded + failed), 99),
        "parts": [
            ("good", 0.0, succeeded),
            ("bad", succeeded, failed),
            ("mixed", succeeded + failed, retrying),
        ],
        "is_over": is_over,
        # What goes on by itself is worth watching.
        "is_settled": not is_running and progress.is_answered and not progress.held_for_now,
        "is_running": is_running,
    }


def webhook_names(rows: Iterable[Redelivery]) -> dict[str, str]:
    """Return the names of the webhooks that redeliveries are of, by id; one statement."""
    ids = {row.scope["webhook_id"] for row in rows if "webhook_id" in row.scope}
    named = Webhook.objects.filter(pk__in=ids).values_list("pk", "name")
    return {str(pk): name for pk, name in named}


def describe(row: Redelivery, names: Mapping[str, str]) -> str:
    """Say in words what was asked for."""
    scope = scope_of(row)
    if scope is None:
        return "what this version cannot read"
    words = []
    if scope.delivery_ids:
        words.append(f"{len(scope.delivery_ids):,} chosen deliveries")
    else:
        words.append("events never sent" if row.is_replay else f"{_any(scope.statuses)} deliveries")
    for name, value in (
        ("of type", scope.event_type),
        ("of webhook", names.get(str(scope.webhook_id), scope.webhook_id)),
        ("of owner", scope.owner_id),
        ("of event", scope.event_id),
        ("since", scope.since and f"{scope.since:%Y-%m-%d %H:%M} UTC"),
        ("until", scope.until and f"{scope.until:%Y-%m-%d %H:%M} UTC"),
        ("at most", scope.limit),
    ):
        # Until the moment it was asked for goes without saying.
        if value and not (
            name == "until" and scope.until and scope.until >= row.created_at - AT_ONCE
        ):
            words.append(f"{name} {value}")
    return ", ".join(words)


def _any(statuses: Iterable[str]) -> str:
    labels = [DeliveryStatus(status).label.lower() for status in statuses]
    return " or ".join("successful" if label == "success" else label for label in labels)
