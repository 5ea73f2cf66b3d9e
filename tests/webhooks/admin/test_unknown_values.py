"""A filter that does not know a value shows nothing: who mistypes must not take all for some."""

from typing import Any

import pytest
from django.contrib import admin
from django.test import Client

from webhooks.admin.base import OperatorAdmin, parameters_of

FILTERS = [
    (f"{model._meta.app_label}/{model._meta.model_name}", parameter)
    for model, found in admin.site._registry.items()
    if isinstance(found, OperatorAdmin)
    for one in found.list_filter
    for parameter in sorted(parameters_of(one))
]


@pytest.mark.parametrize(("model", "parameter"), FILTERS)
def test_unknown_value_shows_nothing(
    model: str, parameter: str, operator: Client, samples: dict[str, Any]
) -> None:
    answer = operator.get(f"/admin/{model}/", {parameter: "no such value"}, follow=True)

    assert answer.status_code == 200
    assert list(answer.context["cl"].result_list) == []
