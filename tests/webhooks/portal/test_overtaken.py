"""What an owner works on is deleted between look-up and act: the answer is never a 500."""

from typing import Any

import pytest
from django.test import Client

from tests.concurrency import in_thread
from tests.webhooks.admin.test_overtaken import delete_row
from tests.webhooks.portal.conftest import Things, every_page
from tests.webhooks.portal.test_access import FORM
from webhooks.portal.urls import ACTING
from webhooks.portal.visit import Visit

NAMES = [name for where, _, name in ACTING if "_id>" in where]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_soft", [True, False], ids=["deleted", "purged"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_deleted_meanwhile_is_no_server_error(
    name: str,
    is_soft: bool,
    owner_client: Client,
    things: Things,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for look_up in ("webhook", "delivery", "event", "redelivery"):
        real = getattr(Visit, look_up)

        def found_and_gone(visit: Visit, public_id: str, real: Any = real) -> Any:
            found = real(visit, public_id)
            # By somebody else: what the page's own transaction deletes would come back with it.
            in_thread(lambda: delete_row(found, is_soft=is_soft)).join()
            return found

        monkeypatch.setattr(Visit, look_up, found_and_gone)
    owner_client.raise_request_exception = False

    answer = owner_client.post(f"/portal/{every_page(things)[name]}", FORM)

    assert answer.status_code < 500, answer.content[-2000:]
