"""Deliveries: the list, and one delivery with all its attempts."""

from collections.abc import Iterable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.admin import display
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webhooks import service
from webhooks.admin.base import BigTableAdmin
from webhooks.admin.filters import (
    CodeFilter,
    FailedAttemptFilter,
    KindFilter,
    OwnerFilter,
    SinceFilter,
    StatusFilter,
    TypeFilter,
    UntilFilter,
    WebhookFilter,
)
from webhooks.admin.operations import Operation
from webhooks.admin.template_tags import ago, status_chip, waits
from webhooks.doors import access
from webhooks.doors.downloads import as_file
from webhooks.errors import PublicIdInvalidError, RedeliveryScopeError
from webhooks.ids import ATTEMPT_PREFIX, DELIVERY_PREFIX, EVENT_PREFIX, parse_public_id
from webhooks.models import Attempt, Delivery, Event
from webhooks.models.delivery import WAITING, DeliveryQuerySet
from webhooks.repair.redelivery_scope import REPEATABLE, Scope, warnings_of
from webhooks.workbench.attempts import PER_PAGE, show_payload, view_attempts


class RedeliverDelivery(Operation):
    name = "redeliver"
    deed = access.REDELIVER
    title = "Send this delivery again"
    text = "It is sent at once with a new retry budget. The receiver sees the same event id."
    button = "Redeliver"

    def act(self, form: forms.Form) -> Any:
        redelivery = service.redeliver_one(self.subject, requested_by=self.request.user)
        self.note("delivery.redeliver", redelivery=redelivery.public_id)
        return self.done("The delivery is sent again.")

    def warnings(self) -> list[str]:
        return warnings_of(Scope(delivery_ids=(self.subject.pk,)))


class CancelDelivery(Operation):
    name = "cancel"
    deed = access.REDELIVER
    title = "Cancel this delivery"
    text = "It is not retried. It can be redelivered later."
    button = "Cancel the delivery"
    is_dangerous = True

    def act(self, form: forms.Form) -> Any:
        if not service.cancel(self.subject):
            raise RedeliveryScopeError(
                "This delivery is not pending any more, so nothing was cancelled."
            )
        self.note("delivery.cancel", status=[self.subject.status, "CANCELLED"])
        return self.done("The delivery is cancelled.")


@admin.register(Delivery)
class DeliveryAdmin(BigTableAdmin):
    id_prefix = DELIVERY_PREFIX
    list_display = ("named", "receiver", "state", "attempts", "answer", "next_attempt", "created")
    list_display_links = ("named",)
    list_filter = (
        StatusFilter, SinceFilter, UntilFilter, WebhookFilter, OwnerFilter, TypeFilter, CodeFilter,
        KindFilter, FailedAttemptFilter,
    )  # fmt: skip
    list_filter_sheet = True
    search_fields = ("id",)
    search_help_text = "Id of a delivery (del_…), an event (evt_…) or an attempt (att_…)"
    actions = ("redeliver_selected",)
    list_before_template = "admin/webhooks/delivery/above_list.html"
    operations: ClassVar[Iterable[Any]] = (RedeliverDelivery, CancelDelivery)

    def get_urls(self) -> list[URLPattern]:
        answer = path(
            "<path:object_id>/answer/<int:number>/",
            self.admin_site.admin_view(self.answer_view),
            name=self.url_name("answer"),
        )
        return [answer, *super().get_urls()]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        rows: DeliveryQuerySet = super().get_queryset(request)
        return rows.with_waits()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Delivery], search_term: str
    ) -> tuple[QuerySet[Delivery], bool]:
        term = search_term.strip()
        try:
            if term.startswith(EVENT_PREFIX):
                return queryset.filter(event=parse_public_id(term, EVENT_PREFIX)), False
            if term.startswith(ATTEMPT_PREFIX):
                attempt_id = parse_public_id(term, ATTEMPT_PREFIX)
                return queryset.filter(attempts__id=attempt_id), False
            if term:
                prefix = DELIVERY_PREFIX if term.startswith(DELIVERY_PREFIX) else ""
                return queryset.filter(id=parse_public_id(term.replace("-", ""), prefix)), False
        except PublicIdInvalidError:
            return queryset.none(), False
        return queryset, False

    @admin.action(description="Redeliver…", permissions=["redeliver"])
    def redeliver_selected(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> Any:
        """Redirect to the page that counts the deliveries and asks for confirmation."""
        ids = list(queryset.values_list("id", flat=True))
        return self.render(
            request,
            "admin/webhooks/redelivery/selected.html",
            {
                "title": "Redeliver",
                "ids": ids,
                "count": queryset.filter(status__in=REPEATABLE).count(),
                "back_url": reverse("admin:webhooks_delivery_changelist"),
                "form_url": reverse("admin:webhooks_redelivery_new"),
                "warnings": warnings_of(Scope(delivery_ids=tuple(ids))) if ids else [],
            },
        )

    def has_redeliver_permission(self, request: HttpRequest) -> bool:
        return bool(access.may(request.user, access.REDELIVER))

    @display(description="Event")
    def named(self, delivery: Delivery) -> SafeString:
        return format_html(
            '<span class="op-two"><b>{}</b><small class="op-mono">{}</small></span>',
            delivery.event_type,
            delivery.public_id,
        )

    @display(description="Webhook")
    def receiver(self, delivery: Delivery) -> SafeString:
        return format_html(
            '<a class="op-link" href="{}">{}</a>',
            reverse("admin:webhooks_webhook_change", args=[delivery.webhook_id]),
            delivery.webhook.name,
        )

    @display(description="Status")
    def state(self, delivery: Delivery) -> SafeString:
        return status_chip(delivery.status)

    @display(description="Attempts")
    def attempts(self, delivery: Delivery) -> int:
        return delivery.attempt_count

    @display(description="Last answer")
    def answer(self, delivery: Delivery) -> SafeString:
        told = delivery.error or ("answered" if delivery.response_code else "")
        return format_html(
            '<span class="op-two"><b>{}</b><small class="op-clip" title="{}">{}</small></span>',
            delivery.response_code or "–",
            told,
            told,
        )

    @display(description="Next attempt")
    def next_attempt(self, delivery: Delivery) -> SafeString | str:
        return waits(delivery)

    @display(description="Created", ordering="id")
    def created(self, delivery: Delivery) -> SafeString | str:
        return ago(delivery.created_at)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        delivery = self.find(request, object_id)
        event = Event.objects.filter(pk=delivery.event_id).first()
        attempts = list(delivery.attempts.order_by("-number")[: PER_PAGE + 1])
        payload = b"" if event is None else delivery.rendered(event)
        context = {
            "title": str(delivery),
            "original": delivery,
            "delivery": delivery,
            "webhook": delivery.webhook,
            "event": event,
            "attempts": view_attempts(attempts, payload)[:PER_PAGE],
            "has_more_attempts": len(attempts) > PER_PAGE,
            "payload": None if event is None else show_payload(payload),
            "is_waiting": delivery.status in WAITING,
            "is_repeatable": delivery.status in REPEATABLE and payload != b"",
            "redelivery": delivery.redelivery,
        }
        return self.render(request, "admin/webhooks/delivery/detail.html", context)

    def answer_view(self, request: HttpRequest, object_id: str, number: int) -> HttpResponse:
        """Return a response's body as a plain-text file, whatever its content type."""
        delivery = self.find(request, object_id)
        if not request.user.has_perm(access.VIEW_PAYLOAD):
            raise PermissionDenied
        attempt = Attempt.objects.filter(delivery=delivery, number=number).first()
        if attempt is None:
            raise Http404
        return as_file(bytes(attempt.response_body or b""), f"{attempt.public_id}.txt")

    def find(self, request: HttpRequest, object_id: str) -> Delivery:
        if not self.has_view_permission(request):
            raise PermissionDenied
        delivery = self.get_object(request, object_id)
        if not isinstance(delivery, Delivery):
            raise Http404
        return delivery
