"""The classes that the screens are made of: unfold's where it is installed, else plain Django's.

Chosen once, when the admin loads. Search, the home page and the navigation are unfold's alone.
"""

# mypy: disable-error-code="no-redef"

from typing import Any

from django.apps import apps

IS_PLAIN = not apps.is_installed("unfold")

ModelAdmin: Any
ChangeList: Any
LongPaginator: Any
TextFilter: Any
DropdownFilter: Any
MultipleFilter: Any
BooleanFilter: Any
Textarea: Any
TextInput: Any
Select: Any

if IS_PLAIN:
    from django.contrib.admin import BooleanFieldListFilter as BooleanFilter
    from django.contrib.admin import SimpleListFilter as DropdownFilter
    from django.contrib.admin.views.main import ChangeList
    from django.contrib.admin.widgets import AdminTextareaWidget as Textarea
    from django.contrib.admin.widgets import AdminTextInputWidget as TextInput
    from django.forms import Select

    from webhooks.admin.plain import BoundedPaginator as LongPaginator
    from webhooks.admin.plain import ModelAdmin, MultipleFilter, TextFilter
else:
    from unfold.admin import ModelAdmin
    from unfold.contrib.filters.admin import BooleanRadioFilter as BooleanFilter
    from unfold.contrib.filters.admin import DropdownFilter, TextFilter
    from unfold.contrib.filters.admin import MultipleDropdownFilter as MultipleFilter
    from unfold.paginator import InfinitePaginator as LongPaginator
    from unfold.views import ChangeList
    from unfold.widgets import UnfoldAdminSelectWidget as Select
    from unfold.widgets import UnfoldAdminTextareaWidget as Textarea
    from unfold.widgets import UnfoldAdminTextInputWidget as TextInput

__all__ = [
    "IS_PLAIN",
    "BooleanFilter",
    "ChangeList",
    "DropdownFilter",
    "LongPaginator",
    "ModelAdmin",
    "MultipleFilter",
    "Select",
    "TextFilter",
    "TextInput",
    "Textarea",
]
