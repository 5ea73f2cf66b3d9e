"""What the screens take from unfold, made of django.contrib.admin alone (webhooks/admin/look.py)."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import admin
from django.core.paginator import Paginator
from django.utils.functional import cached_property

LISTED_AT_MOST = 1000
"""Rows that the pages of a large list offer; filters find the others."""


class ModelAdmin(admin.ModelAdmin):
    """Django's, with our stylesheet and what unfold shows above a list."""

    change_list_template = "admin/webhooks/plain_list.html"
    list_before_template: str | None = None

    class Media:
        css = {"all": ["webhooks/plain.css", "webhooks/admin.css"]}
        js = ["webhooks/admin.js"]


class BoundedPaginator(Paginator):
    """Pages of a list that is too long to be counted."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows[:LISTED_AT_MOST].count())


class TextForm(forms.Form):
    """The one field of a TextFilter."""

    def __init__(self, name: str, data: dict[str, Any]) -> None:
        super().__init__(data)
        self.fields[name] = forms.CharField(label="", required=False)


class TextFilter(admin.SimpleListFilter):
    """A filter with a text field."""

    template = "admin/webhooks/plain_filter.html"

    def __init__(self, request: Any, *rest: Any) -> None:
        super().__init__(request, *rest)
        self._others = [
            (name, value)
            for name, values in request.GET.lists()
            for value in values
            if name not in (self.parameter_name, "p")
        ]

    def has_output(self) -> bool:
        return True

    def lookups(self, request: Any, model_admin: Any) -> tuple[()]:
        return ()

    def choices(self, changelist: Any) -> Iterator[Any]:
        name = str(self.parameter_name)
        yield {"form": TextForm(name, {name: self.value()}), "others": self._others}


class MultipleFilter(admin.SimpleListFilter):
    """A filter whose value is a list: all that the address names, one of them per link."""

    def __init__(self, request: Any, *rest: Any) -> None:
        super().__init__(request, *rest)
        self._chosen = request.GET.getlist(self.parameter_name)

    def value(self) -> Any:
        return self._chosen

    def choices(self, changelist: Any) -> Iterator[Any]:
        yield {
            "selected": not self._chosen,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
            "display": "All",
        }
        for value, label in self.lookup_choices:
            yield {
                "selected": str(value) in self._chosen,
                "query_string": changelist.get_query_string({self.parameter_name: value}),
                "display": label,
            }
