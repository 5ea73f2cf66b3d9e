"""The admin's pages that ask for a password, with the same limit of attempts as the API."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from webhooks.doors import allowances, audit


def login(request: HttpRequest) -> HttpResponse:
    """Show the login page or log in; status 429 after too many attempts of an address this minute."""
    if request.method == "POST":
        # The check comes first, because hashing the password costs processor time.
        allowance = allowances.take_login(request)
        if allowance.is_exceeded:
            return _refuse(request, allowance.reset_seconds)
    return admin.site.login(request)


def change_password(request: HttpRequest) -> HttpResponse:
    """Show the page for the own password, or change it; status 429 after too many attempts."""
    user: Any = request.user
    if request.method == "POST" and user.is_authenticated:
        allowance = allowances.take_password(request, user)
        if allowance.is_exceeded:
            return _refuse(request, allowance.reset_seconds)
    response = admin.site.admin_view(admin.site.password_change)(request)
    form = (getattr(response, "context_data", None) or {}).get("form")
    if request.method == "POST" and form is not None and "old_password" in form.errors:
        audit.note(request, "password.refuse", user, actor=user)
    return response


def _refuse(request: HttpRequest, seconds: int) -> HttpResponse:
    context = admin.site.each_context(request) | {"title": "Too many tries", "seconds": seconds}
    return TemplateResponse(
        request,
        "admin/too_many_logins.html",
        context,
        status=429,
        headers={"Retry-After": str(seconds)},
    )
