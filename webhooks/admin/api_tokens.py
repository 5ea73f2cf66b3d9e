"""API tokens: list, make (the text is shown once) and delete, which revokes them."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.admin import display
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_variables

from webhooks.admin.base import OperatorAdmin
from webhooks.admin.look import BooleanFilter
from webhooks.admin.secrets import PasswordOperation
from webhooks.admin.template_tags import ago, chip
from webhooks.doors import access, owners
from webhooks.doors.second_factor import PasswordAgainForm
from webhooks.ids import TOKEN_PREFIX
from webhooks.models import ApiToken

MAX_DAYS = 365


class NewTokenForm(PasswordAgainForm):
    user = forms.CharField(help_text="The user's e-mail address, name or id.")
    name = forms.CharField(max_length=100, help_text="Its purpose.")
    scopes = forms.MultipleChoiceField(
        choices=ApiToken.Scope.choices, widget=forms.CheckboxSelectMultiple
    )
    days = forms.IntegerField(
        min_value=1, max_value=MAX_DAYS, initial=90, label="Days until it expires"
    )
    is_service = forms.BooleanField(
        required=False,
        label="Service token",
        help_text="May trigger events for every owner; you and its user need that permission.",
    )

    field_order = ("user", "name", "scopes", "days", "is_service")

    def clean_user(self) -> Any:
        key = owners.key_of_user(self.cleaned_data["user"])
        user = get_user_model()._base_manager.filter(pk=key).first()
        if user is None:
            raise forms.ValidationError("No user has this name or id, or several have it.")
        is_other_staff = user != self._user and (user.is_staff or user.is_superuser)
        if is_other_staff and not self._user.is_superuser:
            raise forms.ValidationError("Only superusers make tokens of other staff.")
        return user

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        users = (self._user, data.get("user")) if data.get("is_service") else ()
        if any(user and not access.may(user, access.TRIGGER_FOR_OTHERS) for user in users):
            self.add_error("is_service", "You or the user may not trigger events for others.")
        return super().clean()


class AddToken(PasswordOperation):
    name = "new"
    url_path = "new/"
    deed = access.MAKE_TOKEN
    title = "Make an API token"
    text = "A program with this token acts as the user, within its scopes."
    button = "Make"
    form_class = NewTokenForm

    def find(self, object_id: str | None) -> None:
        return None

    def back_url(self) -> str:
        return reverse("admin:webhooks_apitoken_changelist")

    @sensitive_variables()
    def act(self, form: forms.Form) -> HttpResponse:
        data = form.cleaned_data
        ApiToken.objects.make_room(data["user"])
        token, text = ApiToken.objects.issue(
            data["user"],
            name=data["name"],
            scopes=data["scopes"],
            lifetime=timedelta(days=data["days"]),
            is_service=data["is_service"],
        )
        self.note(
            "apitoken.create", token, user=str(data["user"].pk), name=data["name"],
            scopes=data["scopes"], days=data["days"], is_service=data["is_service"],
        )  # fmt: skip
        return self.show(token, "The API token", [(token.name, text)], self.back_url())


@admin.register(ApiToken)
class ApiTokenAdmin(OperatorAdmin):
    id_prefix = TOKEN_PREFIX
    list_display = ("named", "user", "state", "selected_scopes", "expires", "used", "made")
    list_display_links = ("named",)
    list_select_related = ("user",)
    list_filter = (("is_service", BooleanFilter),)
    list_before_template = "admin/webhooks/token/above_list.html"
    search_fields = ("name", "user__email")
    ordering = ("-id",)
    sortable_by = ()
    actions = None
    fields = ("name", "user", "scopes", "is_service", "created", "expiry", "last_used_at")
    operations: ClassVar[Iterable[Any]] = (AddToken,)

    def has_add_permission(self, request: HttpRequest) -> bool:
        # The text is shown once, by AddToken.
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description="Token")
    def named(self, token: ApiToken) -> SafeString:
        return format_html(
            '<span class="op-two"><b>{}</b><small class="op-mono">{}</small></span>',
            token.name,
            token.public_id,
        )

    @display(description="State")
    def state(self, token: ApiToken) -> SafeString:
        if token.expiry is not None and token.expiry <= timezone.now():
            return chip("expired", "muted")
        return chip("service", "warning") if token.is_service else chip("live", "success")

    @display(description="Scopes")
    def selected_scopes(self, token: ApiToken) -> str:
        return ", ".join(token.scopes)

    @display(description="Expires")
    def expires(self, token: ApiToken) -> SafeString | str:
        return "never" if token.expiry is None else ago(token.expiry)

    @display(description="Last used")
    def used(self, token: ApiToken) -> SafeString | str:
        return "never" if token.last_used_at is None else ago(token.last_used_at)

    @display(description="Made")
    def made(self, token: ApiToken) -> SafeString | str:
        return ago(token.created)
