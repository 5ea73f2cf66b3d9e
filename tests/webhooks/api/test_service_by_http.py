"""Everything that a user does in Python can be done by HTTP: README's sentence, function by function."""

import inspect

from tests.webhooks.api.test_description import FILE
from webhooks import service

BY_HTTP = {
    "cancel": ["cancelDelivery"],
    "count_missed": ["enableWebhook"],
    "create_portal_link": ["createPortalLink"],
    "create_webhook": ["createWebhook"],
    "delete_webhook": ["deleteWebhook"],
    "disable": ["disableWebhook"],
    "enable": ["enableWebhook"],
    "explain": ["getEvent"],
    "get_deliveries": ["listDeliveries", "listWebhookDeliveries"],
    "get_portal_links": ["listPortalLinks"],
    "get_webhooks": ["listWebhooks", "getWebhook"],
    "pause_sending": ["pauseSending"],
    "preview_filter": ["previewFilter"],
    "prove": ["verifyWebhook"],
    "put_webhook": ["putWebhook"],
    "redeliver": ["createRedelivery", "retryFailed"],
    "redeliver_one": ["redeliverDelivery"],
    "render_event": ["renderEvent"],
    "replay": ["createRedelivery"],
    "resume_sending": ["resumeSending"],
    "revoke_portal_link": ["revokePortalLink"],
    "revoke_secret": ["revokeSecrets"],
    "rotate_secret": ["rotateSecret"],
    "test_webhook": ["sendTest"],
    "trigger_each": ["triggerEvents"],
    "trigger_event": ["triggerEvent"],
    "try_now": ["tryWebhookNow"],
    "update_webhook": ["updateWebhook"],
    "warnings_of": ["getWebhook"],
}
"""The operations of each function."""

NOT_BY_HTTP = {
    "diagnose": "A developer compares signatures on a page of the portal.",
    "enable_if_it_answers": "A page of the portal does this; a client enables, then sends a test.",
    "find_portal_session": "The portal does this for each of its pages.",
    "open_portal_link": "A browser opens the link's URL.",
    "webhooks_pinning": "An operator asks it; manage.py doctor does.",
    "trigger_events": "All or none, in the caller's transaction, which no client has.",
}
"""Why a function has no operation."""


def test_every_function_of_the_service_has_an_operation_or_a_reason() -> None:
    functions = {name for name in service.__all__ if inspect.isfunction(getattr(service, name))}

    assert functions == BY_HTTP.keys() | NOT_BY_HTTP.keys()
    assert BY_HTTP.keys().isdisjoint(NOT_BY_HTTP)


def test_these_operations_are_described() -> None:
    text = FILE.read_text()

    for names in BY_HTTP.values():
        assert all(f"operationId: {name}\n" in text for name in names), names
