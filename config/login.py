"""The admin's login page, where guessing passwords is limited as it is in the API."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from webhooks.api import throttles


def login(request: HttpRequest) -> HttpResponse:
    """Show the login page or log in; 429 for an address that has tried too often this minute."""
    if request.method == "POST":
        # Before the password is looked at, which also takes a processor a while.
        allowance = throttles.take_login(request)
        if allowance.is_exceeded:
            return _refuse(request, allowance.reset_seconds)
    return admin.site.login(request)


def _refuse(request: HttpRequest, seconds: int) -> HttpResponse:
    context = admin.site.each_context(request) | {"title": "Too many tries", "seconds": seconds}
    return TemplateResponse(
        request,
        "admin/too_many_logins.html",
        context,
        status=429,
        headers={"Retry-After": str(seconds)},
    )
