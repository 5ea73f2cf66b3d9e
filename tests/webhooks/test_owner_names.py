"""A name that somebody chose stands for nobody else."""

import pytest
from django.core.management.base import CommandError

from projects.models import User
from webhooks.doors import owners
from webhooks.management.arguments import find_owner, find_owner_id

pytestmark = pytest.mark.django_db


def test_user_name_that_is_anothers_address_finds_its_owner(user: User, other_user: User) -> None:
    User.objects.filter(pk=other_user.pk).update(username=user.email)

    for text in (user.email, user.email.upper()):
        assert list(owners.find_owners(text)) == [user]
        assert owners.key_of_owner(text) == owners.key_of_user(text) == user.pk
        assert find_owner(text) == user
        assert find_owner_id(text) == user.pk


def test_user_name_that_is_anothers_id_finds_its_owner(user: User, other_user: User) -> None:
    User.objects.filter(pk=other_user.pk).update(username=str(user.pk))

    assert owners.key_of_owner(str(user.pk)) == user.pk


@pytest.mark.parametrize("text", ["a\0", "a\udcff"])
def test_text_that_no_column_holds_is_nobody(user: User, text: str) -> None:
    assert not owners.find_owners(text)
    assert not owners.owners_beginning_with(text)
    assert owners.key_of_owner(text) is None


@pytest.mark.parametrize("text", ["", " "])
def test_blank_text_is_nobody_and_not_who_has_no_name(user: User, text: str) -> None:
    User.objects.filter(pk=user.pk).update(email="", username=" ")

    assert not owners.find_owners(text)
    assert owners.key_of_owner(text) is None


def test_exact_case_comes_before_other_cases_and_two_of_them_are_nobody(
    user: User, other_user: User
) -> None:
    User.objects.filter(pk=other_user.pk).update(email=user.email.title())

    assert owners.key_of_owner(user.email) == user.pk
    assert owners.key_of_owner(user.email.upper()) is None
    for find in (find_owner, find_owner_id):
        with pytest.raises(CommandError, match="not unique"):
            find(user.email.upper())
