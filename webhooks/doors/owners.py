"""How people name an owner or a user: by id, or by an e-mail address, user name or unique text."""

from contextlib import suppress
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db.models import CharField, Q, QuerySet
from django.utils.module_loading import import_string

from webhooks.models.filters import UNSTORABLE
from webhooks.models.owners import ACTIVE, has_active_column, owner_model, owners_are_users


def names_of(model: Any) -> list[str]:
    """Return the fields by which people know the rows of a model; the first one is shown."""
    if hasattr(model, "USERNAME_FIELD"):
        names = [getattr(model, "EMAIL_FIELD", None) or model.USERNAME_FIELD, model.USERNAME_FIELD]
        return list(dict.fromkeys(names))
    return [
        field.name
        for field in model._meta.concrete_fields
        if isinstance(field, CharField)
        and not field.primary_key
        and (field.unique or field.name == "name")
    ]


def shown_name_paths(path: str) -> list[str]:
    """Return the query path of the owners' shown name behind a path to an owner; none without names."""
    return [f"{path}__{name}" for name in names_of(owner_model())[:1]]


def name_word() -> str:
    """Return what people type to name an owner, as the words of a sentence."""
    model = owner_model()
    if owners_are_users() and getattr(model, "EMAIL_FIELD", None):
        return "e-mail address"
    names = names_of(model)
    return str(model._meta.get_field(names[0]).verbose_name) if names else "id"


def name_of(row: Any) -> str:
    """Return what people call an owner or a user."""
    return next((str(text) for name in names_of(row) if (text := getattr(row, name))), str(row))


def find_owners(text: str) -> QuerySet[Any]:
    """Return the owner with this id, or those with this name in upper or lower case."""
    return _named(owner_model(), text)


def key_of_owner(text: str) -> Any:
    """Return the key of the owner with this id, though it is gone, or with this name of nobody else;
    or None."""
    return _key_of(owner_model(), text)


def key_of_user(text: str) -> Any:
    """Return the key of the user with this id, though it is gone, or with this name of nobody else;
    or None."""
    return _key_of(get_user_model(), text)


def _key_of(model: Any, text: str) -> Any:
    found = _named(model, text).values_list("pk", flat=True)[:2]
    if not found:
        return _as_key(model, text)
    return found[0] if len(found) == 1 else None


def _can_name(text: str) -> bool:
    """Say whether a text can be somebody's id or name: not a blank one, which finds those without a
    name, and not one that Postgres refuses."""
    return bool(text.strip()) and not UNSTORABLE.search(text)


def _as_key(model: Any, text: str) -> Any:
    """Return a text as a key of the model; None where its keys do not look so."""
    if not _can_name(text):
        return None
    with suppress(ValidationError, ValueError):
        key = model._meta.pk.to_python(text)
        model._meta.pk.run_validators(key)  # numbers that the column cannot hold
        return key
    return None


def _named(model: Any, text: str) -> QuerySet[Any]:
    """Return the rows by what fits first: the key, then each name, as it is typed before other cases.

    People choose names themselves: whoever takes another's e-mail address as a user name must not be
    found by it.
    """
    rows: QuerySet[Any] = model._default_manager.all()
    if not _can_name(text):
        return rows.none()
    key = _as_key(model, text)
    wanted = [] if key is None else [Q(pk=key)]
    wanted += [
        Q(**{f"{name}__{lookup}": text})
        for name in names_of(model)
        for lookup in ("exact", "iexact")
    ]
    return next((found for one in wanted if (found := rows.filter(one)).exists()), rows.none())


def owners_beginning_with(start: str) -> QuerySet[Any]:
    """Return the active owners one of whose names begins so."""
    model = owner_model()
    wanted = Q(pk__in=[])
    for name in names_of(model) if not UNSTORABLE.search(start) else ():
        wanted |= Q(**{f"{name}__istartswith": start})
    found: QuerySet[Any] = model._default_manager.filter(wanted)
    return found.filter(**{ACTIVE: True}) if has_active_column() else found


def owner_of(request: Any) -> Any:
    """Return the owner for whom a request acts, or his key; None where there is none.

    The function that WEBHOOKS_OWNER_OF_REQUEST names says who: it gets the request, whose user is
    known. Without one the user is the owner; users who are no owners act for nobody.
    """
    if settings.WEBHOOKS_OWNER_OF_REQUEST:
        return import_string(settings.WEBHOOKS_OWNER_OF_REQUEST)(request)
    return request.user if owners_are_users() else None
