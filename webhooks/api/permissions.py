"""What a token may do: every action needs a scope; actions on all owners' rows need permissions."""

from typing import Any

from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from webhooks.doors import access, api_paths, owners
from webhooks.models import ApiToken
from webhooks.models.owners import owner_key

Asker = Any
"""A request with its `user` and `auth`, of Django or of the framework."""

NO_OWNER_NAMED = (
    "This user acts for no owner of webhooks, or the request does not say for which one."
)


def owner_id_of(request: Asker) -> Any:
    """Return the id of the owner for whom a request acts; raises PermissionDenied without one."""
    owner = owners.owner_of(request)
    if owner is None:
        raise PermissionDenied(NO_OWNER_NAMED)
    return owner_key(owner)


def is_service(request: Asker) -> bool:
    """Say whether the product itself asks: by a service token whose user still is staff."""
    token = request.auth
    return isinstance(token, ApiToken) and token.is_service and access.is_staff(request.user)


class HasScope(BasePermission):
    """Allows tokens with the action's scopes; a session (DEBUG only) has every scope."""

    def has_permission(self, request: Request, view: Any) -> bool:
        # UNAUTHENTICATED_USER of a project may be None.
        if not (request.user and request.user.is_authenticated):
            return False
        if not isinstance(request.auth, ApiToken):
            return True
        for scope in view.required_scopes():
            if scope not in request.auth.scopes:
                self.message = (
                    f"This needs the scope {scope!r}, which this token does not have; make one that"
                    f" has it with POST {api_paths.path_of('tokens')}."
                )
                return False
        return True


class MayDo(BasePermission):
    """Allows users with the permissions of the action in the view's `deeds`."""

    def has_permission(self, request: Request, view: Any) -> bool:
        deed = view.deeds.get(view.action)
        if deed is None or access.may(request.user, deed):  # 405 comes next where there is none
            return True
        self.message = refusal_of(deed)
        return False


def refusal_of(deed: access.Deed) -> str:
    """Return a sentence with the required permissions."""
    names = " and ".join(deed.permissions)
    return f"Only staff who have the permission {names} may {deed.what}."
