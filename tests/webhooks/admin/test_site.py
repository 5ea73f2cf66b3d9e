"""What holds for every page of the admin."""

from typing import Any

import pytest
import unfold.admin
from django.contrib import admin
from django.db.models import Model
from django.test import Client

from config.security import POLICY
from projects.models import User
from tests.webhooks.admin.every_url import every_url, fingerprint
from webhooks.admin.base import OperatorAdmin
from webhooks.models import Attempt, AuditEntry, Delivery, Event, Redelivery

pytestmark = pytest.mark.django_db


def test_every_model_admin_is_unfolds_and_audited() -> None:
    wrong = [
        model.__name__
        for model, model_admin in admin.site._registry.items()
        if not isinstance(model_admin, OperatorAdmin)
    ]

    assert wrong == []


def test_every_inline_is_unfolds() -> None:
    wrong = [
        inline.__name__
        for model_admin in admin.site._registry.values()
        for inline in model_admin.inlines
        if not issubclass(inline, (unfold.admin.TabularInline, unfold.admin.StackedInline))
    ]

    assert wrong == []


def test_no_action_of_unfold_is_used() -> None:
    """They are plain links: whoever follows one acts, without a CSRF token."""
    kinds = ("actions_list", "actions_row", "actions_detail", "actions_submit_line")
    wrong = [
        (model.__name__, kind)
        for model, model_admin in admin.site._registry.items()
        for kind in kinds
        if getattr(model_admin, kind)
    ]

    assert wrong == []


@pytest.mark.parametrize("model", [Event, Delivery, Redelivery, AuditEntry])
def test_facts_cannot_be_edited_even_by_superusers(rf: Any, operator: Client, model: Any) -> None:
    request = rf.get("/")
    request.user = User.objects.get()
    model_admin = admin.site._registry[model]

    assert not model_admin.has_add_permission(request)
    assert not model_admin.has_change_permission(request)
    assert not model_admin.has_delete_permission(request)
    assert Attempt not in admin.site._registry


def test_every_page_opens_is_guarded_and_changes_nothing(
    operator: Client, samples: dict[str, Model]
) -> None:
    urls = list(every_url(samples))
    before = fingerprint()

    answers = {url: operator.get(url) for url in urls}

    # Forbidden is what nobody may do by hand: adding and deleting facts.
    odd = {url: one.status_code for url, one in answers.items() if one.status_code != 200}
    assert {url for url, status in odd.items() if status not in (302, 403)} == set()
    assert fingerprint() == before
    assert len(urls) > 80
    for url, answer in answers.items():
        assert answer["Content-Security-Policy"] == POLICY, url
        assert answer["X-Frame-Options"] == "DENY"
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["Referrer-Policy"] == "same-origin"
        assert b"custom-value" not in answer.content, url
    assert sorted(odd.values()).count(302) <= 2, odd


def test_every_page_sends_strangers_to_the_login(
    client: Client, user: Any, samples: dict[str, Model]
) -> None:
    for who in ("anonymous", "not staff"):
        if who == "not staff":
            client.force_login(user)
        for url in every_url(samples):
            if url.endswith("/login/"):
                continue
            answer = client.get(url)
            assert answer.status_code == 302, url
            assert answer["Location"].startswith("/admin/login/"), url


def test_the_policy_lets_no_other_host_and_no_inline_script_in() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))

    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self' 'unsafe-eval'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["object-src"] == "'none'"
    assert "http" not in POLICY


def test_posts_without_a_csrf_token_are_refused(
    operator: Client, samples: dict[str, Model]
) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = operator.cookies
    before = fingerprint()

    statuses = {strict.post(url).status_code for url in every_url(samples)}

    assert statuses == {403}
    assert fingerprint() == before
