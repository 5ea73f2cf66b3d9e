"""What a token may do: every action needs one scope, the queue needs staff."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from webhooks.models import ApiToken


def is_service(request: Request) -> bool:
    """Say whether the product itself asks: by a service token whose maker is still staff."""
    token = request.auth
    return isinstance(token, ApiToken) and token.is_service and bool(request.user.is_staff)


class HasScope(BasePermission):
    """The token has the scope of the action; a session, in DEBUG, has all of them."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user.is_authenticated:
            return False
        scope = view.required_scope()
        if isinstance(request.auth, ApiToken) and scope not in request.auth.scopes:
            self.message = (
                f"This needs the scope {scope!r}, which this token does not have; make one that"
                " has it with POST /api/v1/tokens."
            )
            return False
        return True


class IsStaff(BasePermission):
    message = "Only staff may look at the queue of all owners or change it."

    def has_permission(self, request: Request, view: Any) -> bool:
        return bool(request.user.is_staff)
