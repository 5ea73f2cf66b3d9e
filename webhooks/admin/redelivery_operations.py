"""The operations on redeliveries: start, stop, dismiss."""

from typing import Any, cast

from django import forms
from django.http import HttpRequest, HttpResponse, QueryDict
from django.urls import reverse
from django.utils import timezone

from webhooks import service
from webhooks.admin.operations import Operation
from webhooks.admin.redelivery_form import ScopeForm
from webhooks.choices import DeliveryStatus
from webhooks.doors import access
from webhooks.errors import RedeliveryScopeError
from webhooks.figures.display import bounded
from webhooks.models import Redelivery
from webhooks.repair import redelivery
from webhooks.repair.redelivery_scope import REPEATABLE, Scope, matching, warnings_of

COUNTED_AT_MOST = 100_000


class NewRedelivery(Operation):
    """GET counts the deliveries that the query string selects; POST starts the redelivery."""

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
    """The same selection, as hidden fields of the form that starts it."""

    def find(self, object_id: str | None) -> None:
        return None

    def back_url(self) -> str:
        return reverse("admin:webhooks_redelivery_changelist")

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.GET:
            return self.ask(ScopeForm(initial={"status": [DeliveryStatus.FAILED]}))
        query = request.GET.copy()
        drop_sending(query)
        if "status" not in query and "deliveries" not in query:
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
            raise RedeliveryScopeError("No delivery matches, so there is nothing to send again.")
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
    """Drop `SENDING`: a list's filter may name it, but deliveries in flight cannot be redelivered."""
    statuses = [status for status in query.getlist("status") if status in REPEATABLE]
    if "status" in query:
        query.setlist("status", statuses)


class CancelRedelivery(Operation):
    name = "cancel"
    deed = access.REDELIVER
    title = "Stop this redelivery"
    text = "Deliveries that it has queued are still sent."
    button = "Stop"
    is_dangerous = True

    def act(self, form: forms.Form) -> Any:
        if not redelivery.cancel(self.subject):
            raise RedeliveryScopeError("This redelivery has ended already.")
        self.note("redelivery.cancel", status=["running", "cancelled"])
        return self.done("The redelivery is stopped.")


class DismissRedelivery(Operation):
    name = "dismiss"
    deed = access.REDELIVER
    title = "Dismiss this redelivery"
    text = "The home page no longer shows it; the list of redeliveries does."
    button = "Dismiss"

    def back_url(self) -> str:
        return reverse("admin:index")

    def act(self, form: forms.Form) -> Any:
        Redelivery.objects.filter(pk=self.subject.pk, dismissed_at=None).update(
            dismissed_at=timezone.now()
        )
        self.note("redelivery.dismiss")
        return self.done("The redelivery is dismissed.")
