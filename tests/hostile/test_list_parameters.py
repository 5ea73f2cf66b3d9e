"""What Django's own lists read from the query: no value of it breaks a page of the admin."""

from typing import Any

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from tests.webhooks.admin.conftest import (  # noqa: F401
    delivery,
    event,
    operator,
    samples,
    staff,
    webhook,
)

LISTS = sorted(
    f"{model._meta.app_label}_{model._meta.model_name}"
    for model, found in admin.site._registry.items()
)
HUGE = "9" * 30
QUERIES = [
    {"p": HUGE}, {"p": "-1"}, {"p": "x"}, {"p": "1e9"}, {"p": "0"}, {"all": "1", "p": HUGE},
    {"o": HUGE}, {"o": "-x"}, {"o": "1.2.3.4.5.6.7.8.9"}, {"o": "-"}, {"o": ",".join("1" * 500)},
    {"q": "x" * 5000}, {"q": "'\"\\%_"}, {"q": " ".join("ab" * 300)}, {"q": "\ud7ff\U0010ffff"},
    {"e": "1"}, {"_facets": "True"}, {"_popup": "1"}, {"_to_field": "password"},
    {"_changelist_filters": "x" * 3000}, {"id": "x"}, {"pk__in": "1,2"}, {"id__exact": "x"},
    {"since": HUGE + "h"}, {"until": "0001-01-01"}, {"limit": HUGE}, {"code": HUGE},
    {"owner": HUGE}, {"actor": HUGE}, {"webhook": "x" * 5000}, {"failed": "timeout:" + HUGE},
    {"status": "x" * 5000}, {"type": "x" * 5000}, {"created__year": HUGE}, {"search": "\u202e"},
]  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("name", LISTS)
def test_no_query_breaks_a_list(
    name: str,
    operator: Client,  # noqa: F811
    samples: dict[str, Model],  # noqa: F811
) -> None:
    page = reverse(f"admin:{name}_changelist")
    for query in QUERIES:
        assert operator.get(page, query).status_code < 500, query


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    "change",
    [
        {"limit": HUGE}, {"rate_limit": "nan"}, {"rate_limit": "1e400"}, {"code": HUGE},
        {"since": HUGE + "d"}, {"until": "9999-12-31"}, {"deliveries": ","},
        {"deliveries": "del_" + "0" * 32}, {"event": "evt_" + "f" * 32}, {"owner": HUGE},
    ],
)  # fmt: skip
def test_no_value_breaks_the_form_of_a_redelivery(
    method: str,
    change: dict[str, str],
    operator: Client,  # noqa: F811
    samples: dict[str, Any],  # noqa: F811
) -> None:
    form = {"webhook": str(samples["webhooks_webhook"].pk), "status": "FAILED"} | change
    answer = getattr(operator, method)("/admin/webhooks/redelivery/new/", form)
    assert answer.status_code < 500
