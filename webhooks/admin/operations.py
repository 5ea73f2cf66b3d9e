"""Operators' actions behind buttons: GET asks for confirmation, only POST acts.

Unfold's own actions are links, so that a crafted link would act; ours are forms with a CSRF token.
"""

from contextlib import nullcontext
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.generic import View

from webhooks.doors import access
from webhooks.doors.overtaken import was_deleted
from webhooks.errors import WebhooksError


class Operation(View):
    """One operation on one object: GET shows its effect, POST performs it and redirects."""

    model_admin: Any = None
    name: ClassVar[str]
    """The last part of its URL and of the URL's name."""
    deed: ClassVar[access.Deed]
    """Its entry in the table of permissions."""
    title: ClassVar[str]
    text: ClassVar[str] = ""
    button: ClassVar[str] = ""
    is_dangerous: ClassVar[bool] = False
    is_atomic: ClassVar[bool] = True
    """Whether a failure to write the audit entry rolls it back."""
    form_class: ClassVar[type[forms.Form]] = forms.Form
    template: ClassVar[str] = "admin/webhooks/operation.html"
    url_path: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls) and "url_path" not in vars(cls):
            cls.url_path = f"<path:object_id>/{cls.name}/"

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if not access.may(request.user, self.deed):
            raise PermissionDenied
        self.subject = self.find(kwargs.get("object_id"))
        return super().dispatch(request, *args, **kwargs)

    def find(self, object_id: str | None) -> Any:
        subject = (
            None if object_id is None else self.model_admin.get_object(self.request, object_id)
        )
        if subject is None:
            raise Http404
        return subject

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self.ask(self.build_form())

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        form = self.build_form(request.POST)
        if not form.is_valid():
            return self.ask(form, status=422)
        try:
            with transaction.atomic() if self.is_atomic else nullcontext():
                # A page of before it was deleted, or a bookmark, still asks for it.
                if getattr(self.subject, "deleted_at", None) is not None:
                    raise WebhooksError("It is deleted, so that nothing can be done with it.")
                return self.act(form)
        except ValidationError as problem:
            _add_problems(form, problem)
        except WebhooksError as problem:
            form.add_error(None, str(problem))
        except Exception:
            # Whatever it is, it may come of the object being deleted meanwhile.
            self.check_subject_is_there()
            raise
        return self.ask(form, status=422)

    def check_subject_is_there(self) -> None:
        """Raise Http404 where the object was deleted since it was found."""
        subject = self.subject
        if isinstance(subject, Model) and was_deleted(subject):
            raise Http404 from None

    def build_form(self, data: Any = None) -> forms.Form:
        return self.form_class(data)

    def act(self, form: forms.Form) -> HttpResponse:
        """Perform it; the form shows WebhooksError and ValidationError."""
        raise NotImplementedError

    def ask(self, form: forms.Form, status: int = 200) -> HttpResponse:
        context = {
            "title": self.title,
            "operation": self,
            "form": form,
            "subject": self.subject,
            # The way back above the title.
            "original": self.subject if isinstance(self.subject, Model) else None,
            "back_url": self.back_url(),
            "warnings": self.warnings(),
        }
        answer: HttpResponse = self.model_admin.render(
            self.request, self.template, context | self.context(), status=status
        )
        return answer

    def context(self) -> dict[str, Any]:
        return {}

    def warnings(self) -> list[str]:
        """Return warnings to show before and after it, one sentence each."""
        return []

    def back_url(self) -> str:
        return self.url_of(self.subject)

    def url_of(self, subject: Model, page: str = "change") -> str:
        name = f"{subject._meta.app_label}_{subject._meta.model_name}_{page}"
        return reverse(f"admin:{name}", args=[subject.pk])

    def note(self, action: str, subject: Model | str | None = None, **changes: Any) -> None:
        self.model_admin.note(self.request, action, subject or self.subject, **changes)

    def done(self, message: str, url: str | None = None, level: int = messages.SUCCESS) -> Any:
        messages.add_message(self.request, level, message)
        for warning in self.warnings():
            messages.warning(self.request, warning)
        return HttpResponseRedirect(url or self.back_url())


def _add_problems(form: forms.Form, problem: ValidationError) -> None:
    if not hasattr(problem, "error_dict"):
        form.add_error(None, problem)
        return
    for field, errors in problem.error_dict.items():
        form.add_error(field if field in form.fields else None, errors)
