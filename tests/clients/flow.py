"""One flow with the client that openapi-python-client makes; tests/clients/test_clients.py runs it."""

import os

from remote_dev_ai_webhooks_client import AuthenticatedClient
from remote_dev_ai_webhooks_client.api.deliveries import list_deliveries, redeliver_delivery
from remote_dev_ai_webhooks_client.api.events import trigger_event
from remote_dev_ai_webhooks_client.api.webhooks import (
    create_webhook,
    delete_webhook,
    update_webhook,
)
from remote_dev_ai_webhooks_client.models import NewEventInput, NewWebhookInput, WebhookChanges

client = AuthenticatedClient(
    os.environ["SERVER"], os.environ["TOKEN"], raise_on_unexpected_status=True
)
wish = NewWebhookInput(
    name="Orders", url="http://127.0.0.1:9/", events=["project.*"], retry_delay=7, timeout=3
)
webhook = create_webhook.sync(client=client, body=wish)
changed = update_webhook.sync(webhook.id, client=client, body=WebhookChanges(name="Renamed"))
assert (changed.name, changed.retry_delay, changed.timeout) == ("Renamed", 7, 3), changed
data = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Website",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}
event = trigger_event.sync(
    client=client, body=NewEventInput.from_dict({"type": "project.deleted", "data": data})
)
(delivery,) = list_deliveries.sync(client=client, event=event.id).results
assert delivery.webhook_id == webhook.id
redelivery = redeliver_delivery.sync(delivery.id, client=client)
assert redelivery.matched_count == 1
assert delete_webhook.sync_detailed(webhook.id, client=client).status_code == 204
