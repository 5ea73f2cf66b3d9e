"""The permission matrix: what each permission lets a member of staff see and do, and nothing more."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db.models import Model
from django.test import Client

from projects.models import User
from tests.webhooks.admin.every_url import every_url, fingerprint
from webhooks.models import ApiToken, Delivery, Webhook

pytestmark = pytest.mark.django_db

Staff = Callable[..., Client]

PAGES = {
    "/admin/webhooks/webhook/": "webhooks.view_webhook",
    "/admin/webhooks/webhook/{webhook}/change/": "webhooks.view_webhook",
    "/admin/webhooks/webhook/{webhook}/settings/": "webhooks.view_webhook",
    "/admin/webhooks/webhook/{webhook}/deliveries/": "webhooks.view_webhook",
    "/admin/webhooks/webhook/{webhook}/secrets/": "webhooks.view_webhook",
    "/admin/webhooks/webhook/{webhook}/verify/": "webhooks.view_webhook",
    "/admin/webhooks/webhook/{webhook}/history/": "webhooks.view_webhook",
    "/admin/webhooks/event/": "webhooks.view_event",
    "/admin/webhooks/event/{event}/change/": "webhooks.view_event",
    "/admin/webhooks/delivery/": "webhooks.view_delivery",
    "/admin/webhooks/delivery/{delivery}/change/": "webhooks.view_delivery",
    "/admin/webhooks/redelivery/": "webhooks.view_redelivery",
    "/admin/webhooks/redelivery/{redelivery}/change/": "webhooks.view_redelivery",
    "/admin/webhooks/redelivery/{redelivery}/progress/": "webhooks.view_redelivery",
    "/admin/webhooks/workerheartbeat/": "webhooks.view_workerheartbeat",
    "/admin/webhooks/auditentry/": "webhooks.view_auditentry",
    "/admin/webhooks/apitoken/": "webhooks.view_apitoken",
    "/admin/webhooks/apitoken/{apitoken}/change/": "webhooks.view_apitoken",
    "/admin/projects/project/": "projects.view_project",
    "/admin/projects/user/": "projects.view_user",
    "/admin/sessions_app/session/": "sessions_app.view_session",
}

OPERATIONS = {
    "/admin/webhooks/webhook/{webhook}/test/": ["webhooks.change_webhook"],
    "/admin/webhooks/webhook/{webhook}/enable/": ["webhooks.change_webhook"],
    "/admin/webhooks/webhook/{webhook}/disable/": ["webhooks.change_webhook"],
    "/admin/webhooks/webhook/{webhook}/remove/": ["webhooks.delete_webhook"],
    "/admin/webhooks/webhook/{webhook}/redeliver-failed/": ["webhooks.redeliver_delivery"],
    "/admin/webhooks/webhook/{webhook}/rotate-secret/": [
        "webhooks.change_webhook",
        "webhooks.reveal_signingsecret",
    ],
    "/admin/webhooks/webhook/{webhook}/revoke-secrets/": ["webhooks.change_webhook"],
    "/admin/webhooks/webhook/{webhook}/reveal-secrets/": ["webhooks.reveal_signingsecret"],
    "/admin/webhooks/webhook/new/": ["webhooks.add_webhook", "webhooks.reveal_signingsecret"],
    "/admin/webhooks/apitoken/new/": [
        "webhooks.add_apitoken",
        "webhooks.view_payload",
        "webhooks.reveal_signingsecret",
    ],
    "/admin/webhooks/event/{event}/replay/": ["webhooks.redeliver_delivery"],
    "/admin/webhooks/delivery/{delivery}/redeliver/": ["webhooks.redeliver_delivery"],
    "/admin/webhooks/delivery/{delivery}/cancel/": ["webhooks.redeliver_delivery"],
    "/admin/webhooks/redelivery/new/": ["webhooks.redeliver_delivery"],
    "/admin/webhooks/redelivery/{redelivery}/cancel/": ["webhooks.redeliver_delivery"],
    "/admin/webhooks/redelivery/{redelivery}/dismiss/": ["webhooks.redeliver_delivery"],
    "/admin/webhooks/workerheartbeat/pause/": ["webhooks.pause_sending"],
    "/admin/webhooks/workerheartbeat/resume/": ["webhooks.pause_sending"],
}

EVERYTHING = sorted(
    set(PAGES.values())
    | {one for names in OPERATIONS.values() for one in names}
    | {"webhooks.view_payload", "webhooks.change_delivery", "webhooks.delete_delivery"}
)


@pytest.fixture
def url(samples: dict[str, Model]) -> Callable[[str], str]:
    ids = {name.split("_")[-1]: one.pk for name, one in samples.items()}
    return lambda template: template.format(**ids)


def test_a_page_opens_with_its_permission_alone(staff: Staff, url: Callable[[str], str]) -> None:
    for page, permission in PAGES.items():
        assert staff(permission).get(url(page)).status_code == 200, page
        others = [one for one in EVERYTHING if one != permission]
        others = [one for one in others if one != permission.replace(".view_", ".change_")]
        assert staff(*others).get(url(page)).status_code == 403, page


def test_an_operation_needs_all_its_permissions(staff: Staff, url: Callable[[str], str]) -> None:
    staff()
    before = fingerprint()
    for page, permissions in OPERATIONS.items():
        assert staff(*permissions).get(url(page)).status_code == 200, page
        for missing in permissions:
            client = staff(*(one for one in EVERYTHING if one != missing))
            assert client.get(url(page)).status_code == 403, (page, missing)
            assert client.post(url(page), {"reason": "x"}).status_code == 403, (page, missing)
    staff()
    assert {key for key, one in fingerprint().items() if one != before[key]} <= {"projects_user"}


def test_staff_without_permissions_see_nothing_but_the_frame(
    staff: Staff, samples: dict[str, Model], webhook: Webhook
) -> None:
    client = staff()

    for url in every_url(samples):
        answer = client.get(url)
        assert answer.status_code in (200, 302, 403), url
        assert webhook.name.encode() not in answer.content, url
        assert b"receiver.example" not in answer.content, url


def test_payloads_and_answers_need_a_permission_of_their_own(
    staff: Staff, delivery: Delivery
) -> None:
    pages = [
        f"/admin/webhooks/event/{delivery.event_id}/change/",
        f"/admin/webhooks/delivery/{delivery.pk}/change/",
    ]
    files = [
        f"/admin/webhooks/event/{delivery.event_id}/payload/",
        f"/admin/webhooks/delivery/{delivery.pk}/answer/1/",
    ]
    looking = ["webhooks.view_event", "webhooks.view_delivery"]

    for page in pages:
        content = staff(*looking).get(page).content
        assert b"card_declined" not in content
        assert b"it broke" not in content
        assert b"nginx" not in content
        assert b"card_declined" in staff(*looking, "webhooks.view_payload").get(page).content
    for file in files:
        assert staff(*looking).get(file).status_code == 403
        assert staff(*looking, "webhooks.view_payload").get(file).status_code == 200


def test_pages_offer_only_what_may_be_done(
    staff: Staff, url: Callable[[str], str], delivery: Delivery
) -> None:
    pages = ["/admin/", *map(url, PAGES)]
    viewing = sorted(set(PAGES.values()))

    for page in pages:
        content = staff(*viewing).get(page).content.decode()
        for operation in OPERATIONS:
            assert f'"{url(operation)}' not in content, (page, operation)


def test_a_viewer_cannot_save_the_settings(staff: Staff, webhook: Webhook) -> None:
    client = staff("webhooks.view_webhook")

    answer: Any = client.post(
        f"/admin/webhooks/webhook/{webhook.pk}/settings/", {"name": "Mine", "url": webhook.url}
    )

    assert answer.status_code == 403
    webhook.refresh_from_db()
    assert webhook.name == "Orders"


def test_only_superusers_give_permissions(staff: Staff, user: Any) -> None:
    client = staff("projects.change_user", "projects.view_user")

    client.post(
        f"/admin/projects/user/{user.pk}/change/",
        {
            "username": "ada", "email": "ada@example.com", "is_superuser": "on", "is_staff": "on",
            "storage_quota_bytes": 1, "is_active": "on",
        },
    )  # fmt: skip

    user.refresh_from_db()
    assert (user.is_superuser, user.is_staff) == (False, False)
    assert user.storage_quota_bytes == 1


NEW_PASSWORD = {
    "password1": "correct horse",
    "password2": "correct horse",
    "usable_password": "true",
}
ACCOUNT = {
    "username": "taken", "email": "taken@example.com", "storage_quota_bytes": 1, "is_active": "on",
}  # fmt: skip


def test_only_superusers_touch_the_accounts_of_staff(staff: Staff, user: User) -> None:
    client = staff("projects.change_user", "projects.view_user", "projects.delete_user")
    root = User.objects.create_user("root", "root@example.com", "secret", is_superuser=True)
    User.objects.create_user("colleague", "colleague@example.com", "secret", is_staff=True)
    accounts = User.objects.exclude(pk=user.pk)
    before = fingerprint()

    for account in accounts:
        page = f"/admin/projects/user/{account.pk}"
        for url, data in (
            (f"{page}/password/", NEW_PASSWORD),
            (f"{page}/change/", ACCOUNT),
            (f"{page}/delete/", {"post": "yes"}),
        ):
            assert client.post(url, data).status_code == 403, url
        shown = client.get(f"{page}/change/")
        assert shown.status_code == 200
        assert b'name="_save"' not in shown.content
        assert root.password.rsplit("$", 1)[1].encode() not in shown.content
    chosen = [str(account.pk) for account in accounts]
    client.post(
        "/admin/projects/user/",
        {"action": "delete_selected", "_selected_action": chosen, "post": "yes"},
    )

    assert fingerprint() == before
    assert client.post(f"/admin/projects/user/{user.pk}/password/", NEW_PASSWORD).status_code == 302


def test_superusers_touch_the_accounts_of_staff(operator: Client) -> None:
    colleague = User.objects.create(username="c", email="c@example.com", is_staff=True)

    operator.post(f"/admin/projects/user/{colleague.pk}/password/", NEW_PASSWORD)

    colleague.refresh_from_db()
    assert colleague.check_password("correct horse")


def test_only_superusers_write_groups(staff: Staff, operator: Client) -> None:
    group = Group.objects.create(name="Night shift")
    User.objects.get().groups.add(group)
    page = f"/admin/auth/group/{group.pk}"
    wish = {"name": "Night shift", "permissions": ["1"]}
    User.objects.update(is_superuser=False)
    client = staff(*(f"auth.{verb}_group" for verb in ("view", "add", "change", "delete")))
    before = fingerprint()

    assert client.get(f"{page}/change/").status_code == 200
    assert client.post(f"{page}/change/", wish).status_code == 403
    assert client.post("/admin/auth/group/add/", wish | {"name": "Mine"}).status_code == 403
    assert client.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    client.post(
        "/admin/auth/group/",
        {"action": "delete_selected", "_selected_action": [str(group.pk)], "post": "yes"},
    )
    assert fingerprint() == before

    User.objects.update(is_superuser=True)
    assert client.post(f"{page}/change/", wish).status_code == 302
    assert group.permissions.count() == 1


@pytest.mark.usefixtures("password")
@pytest.mark.parametrize("powers", [{"is_staff": True}, {"is_superuser": True}])
def test_only_superusers_make_tokens_of_other_staff(
    staff: Staff, user: User, powers: dict[str, bool]
) -> None:
    client = staff(*OPERATIONS["/admin/webhooks/apitoken/new/"])
    User.objects.create(username="root", email="root@example.com", **powers)
    wish = {"user": "root@example.com", "name": "CI", "scopes": ["write"], "days": 30, "password": "pass"}  # fmt: skip

    refused = client.post("/admin/webhooks/apitoken/new/", wish)

    assert refused.status_code == 422
    assert "Only superusers make tokens of other staff." in refused.content.decode()
    assert not ApiToken.objects.exists()
    for email in ("ada@example.com", "staff@example.com"):
        made = client.post("/admin/webhooks/apitoken/new/", wish | {"user": email})
        assert made.status_code == 200
    User.objects.filter(username="staff").update(is_superuser=True)
    assert client.post("/admin/webhooks/apitoken/new/", wish).status_code == 200
    assert ApiToken.objects.count() == 3
