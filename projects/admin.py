"""Users, groups and projects in the operators' admin."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from unfold.contrib.filters.admin import BooleanRadioFilter
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from projects.models import Project, User
from webhooks.admin.base import OperatorAdmin

# django-otp's own pages would show keys and recovery codes; ours is webhooks.admin.second_factor.
admin.site.unregister((Group, TOTPDevice, StaticDevice))

GIGABYTE = 1024**3


@admin.register(User)
class UserAdmin(DjangoUserAdmin, OperatorAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("named", "name", "kind", "quota", "date_joined", "last_login")
    list_display_links = ("named",)
    list_filter = (
        ("is_staff", BooleanRadioFilter),
        ("is_superuser", BooleanRadioFilter),
        ("is_active", BooleanRadioFilter),
    )
    search_fields = ("email", "username", "name")
    ordering = ("-id",)
    list_per_page = 50
    # Deleting a user also deletes webhooks and stores events, which is too slow for many users at once.
    actions = None
    fieldsets = (
        (None, {"fields": ("username", "email", "password")}),
        ("Person", {"fields": ("name", ("first_name", "last_name"), "storage_quota_bytes")}),
        (
            "Permissions",
            {
                "fields": (
                    "is_active",
                    "is_staff",
                    "is_superuser",
                    "groups",
                    "user_permissions",
                )
            },
        ),
        ("Dates", {"fields": (("last_login", "date_joined"),)}),
    )
    readonly_fields = ("last_login", "date_joined")
    add_fieldsets = (
        (
            None,
            {"fields": ("username", "email", "name", "usable_password", "password1", "password2")},
        ),
    )

    @display(description="User")
    def named(self, user: User) -> SafeString:
        return format_html(
            '<span class="op-two"><b>{}</b><small>{}</small></span>', user.username, user.email
        )

    @display(description="Kind", label={"Superuser": "danger", "Staff": "info"})
    def kind(self, user: User) -> str:
        if not user.is_active:
            return "Inactive"
        return "Superuser" if user.is_superuser else "Staff" if user.is_staff else "Customer"

    @display(description="Quota")
    def quota(self, user: User) -> str:
        return f"{user.storage_quota_bytes / GIGABYTE:.1f} GB"

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_change(request, obj) and bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_change(request, obj) and bool(super().has_delete_permission(request, obj))

    def user_change_password(
        self, request: HttpRequest, id: str, form_url: str = ""
    ) -> HttpResponse:
        response = super().user_change_password(request, id, form_url)
        user = self.get_object(request, id)
        if request.method == "POST" and response.status_code == 302 and user is not None:
            self.note(request, "user.password", user, password="set")  # noqa: S106
        return response

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """Return a form in which only superusers can change staff status, groups and permissions."""
        form = super().get_form(request, obj, change=change, **kwargs)
        if not request.user.is_superuser:
            for name in ("is_superuser", "is_staff", "groups", "user_permissions"):
                if name in form.base_fields:
                    form.base_fields[name].disabled = True
        return form


def _may_change(request: HttpRequest, account: User | None) -> bool:
    # An operator who can set an account's password or address can take it over.
    is_privileged = account is not None and (account.is_staff or account.is_superuser)
    return bool(request.user.is_superuser) or not is_privileged


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, OperatorAdmin):  # type: ignore[misc]
    """Groups give permissions, so only superusers can change them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)


@admin.register(Project)
class ProjectAdmin(OperatorAdmin):
    list_display = ("name", "owner", "archived", "created_at", "updated_at")
    list_select_related = ("owner",)
    list_filter = (("archived", BooleanRadioFilter),)
    search_fields = ("name", "owner__email")
    autocomplete_fields = ("owner",)
    readonly_fields = ("created_at", "updated_at")
    ordering = ("-id",)
    list_per_page = 50
