"""An add form takes values from its query string, and leaves out what is no value of a field."""

from typing import Any

import pytest
from django.contrib import admin
from django.test import Client

from projects.models import Project, User
from webhooks.admin.base import OperatorAdmin

MODELS = [
    model for model, found in admin.site._registry.items() if isinstance(found, OperatorAdmin)
]
NO_VALUES = ["9" * 40, "[]", "0001-01-01T00:00:00+14:00"]


@pytest.mark.parametrize("model", MODELS)
def test_what_is_no_value_is_no_error(
    model: Any, operator: Client, samples: dict[str, Any]
) -> None:
    url = f"/admin/{model._meta.app_label}/{model._meta.model_name}/add/"
    names = [field.name for field in model._meta.get_fields()]
    for text in NO_VALUES:
        answer = operator.get(url, dict.fromkeys(names, text))

        assert answer.status_code in (200, 302, 403, 404), text


def test_values_are_in_the_form(operator: Client, user: User) -> None:
    answer = operator.get("/admin/projects/project/add/", {"owner": str(user.pk), "name": "Docs"})

    form = answer.context["adminform"].form
    assert form.get_initial_for_field(form.fields["owner"], "owner") == user.pk
    assert form.get_initial_for_field(form.fields["name"], "name") == "Docs"
    assert not Project.objects.exists()
