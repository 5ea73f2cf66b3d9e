"""What an operator works on is deleted between look-up and act: the answer is never a 500."""

from typing import Any

import pytest
from django.contrib import admin
from django.db import connection, transaction
from django.test import Client

from webhooks import service
from webhooks.admin.base import OperatorAdmin
from webhooks.admin.operations import Operation
from webhooks.models import Attempt, Delivery, Redelivery, SigningSecret, Webhook

FORM = {
    "reason": "ticket 7", "password": "pass", "send": "all", "send_missed": "on", "overlap": "0",
    "capabilities": "view", "event_type": "webhook.test",
}  # fmt: skip
OPERATIONS = [
    (model._meta.model_name, one)
    for model, found in admin.site._registry.items()
    if isinstance(found, OperatorAdmin)
    for one in found.operations
    if one.url_path.startswith("<path:object_id>")
]


def delete_row(subject: Any, *, is_soft: bool) -> None:
    """Delete a row with what belongs to it, as the owner or the purge does."""
    if isinstance(subject, Webhook) and is_soft:
        service.delete_webhook(Webhook.objects.get(pk=subject.pk))
        return
    deliveries = {
        "webhook": Delivery.objects.filter(webhook=subject.pk),
        "event": Delivery.objects.filter(event=subject.pk),
        "delivery": Delivery.objects.filter(pk=subject.pk),
    }.get(str(subject._meta.model_name), Delivery.objects.none())
    Attempt.objects.filter(delivery__in=deliveries).delete()
    deliveries.delete()
    if isinstance(subject, Webhook):
        SigningSecret.objects.filter(webhook=subject.pk).delete()
    if isinstance(subject, Redelivery):
        Delivery.objects.filter(redelivery=subject.pk).update(redelivery=None)
    type(subject)._base_manager.filter(pk=subject.pk).delete()


@pytest.mark.usefixtures("password")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_soft", [True, False], ids=["deleted", "purged"])
@pytest.mark.parametrize(
    ("model", "operation"), OPERATIONS, ids=[f"{model}_{one.name}" for model, one in OPERATIONS]
)
def test_what_is_deleted_meanwhile_is_no_server_error(
    model: str,
    operation: type[Operation],
    is_soft: bool,
    operator: Client,
    samples: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Operation.find

    def find(self: Operation, object_id: str | None) -> Any:
        subject = real(self, object_id)
        with transaction.atomic():
            delete_row(subject, is_soft=is_soft)
        return subject

    subject = samples[f"webhooks_{model}"]
    monkeypatch.setattr(Operation, "find", find)
    operator.raise_request_exception = False

    answer = operator.post(f"/admin/webhooks/{model}/{subject.pk}/{operation.name}/", FORM)

    assert answer.status_code < 500, answer.content[-2000:]
    assert not connection.in_atomic_block
