"""One request to a webhook outside of deliveries: a test, or the challenge of a proof.

Signed, addressed and guarded like every delivery, but of an event that is not stored: nothing is
retried and nothing counts.
"""

import json
from collections.abc import Sequence
from datetime import date
from typing import Any
from uuid import UUID

from django.conf import settings
from requests import Response

from webhooks import catalog
from webhooks.dispatch.endpoints import Endpoint, Endpoints
from webhooks.errors import WebhookNotSendingError
from webhooks.ids import EVENT_PREFIX, new_id
from webhooks.postgres.sql import database_now
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.failures import WithdrawnError
from webhooks.wire.messages import Draft, HeaderBlock, Post
from webhooks.wire.request import build_formed_request


class SingleRequest:
    """A request that is signed when it goes out, with what the database knows of its webhook then.

    Raises WebhookNotSendingError where the webhook may not be sent to (invariant 12), or with
    `may_be_inactive` where it is more than switched off. `form`,
    `spec` and `stored_version` are those of render(), the standard form by default.
    """

    def __init__(
        self,
        webhook_id: UUID,
        event_type: str,
        data: Any,
        *,
        extra_lines: Sequence[bytes] = (),
        form: str | None = None,
        spec: str | None = None,
        stored_version: date | None = None,
        may_be_inactive: bool = False,
    ) -> None:
        self._webhook_id = webhook_id
        self._event_id = new_id()
        self._event_type = event_type
        self._extra_lines = extra_lines
        self._form = form
        self._spec = spec
        self._stored_version = stored_version
        self._endpoints = Endpoints(may_be_inactive=may_be_inactive)
        endpoint = self._read()
        if endpoint is None:
            raise WebhookNotSendingError
        self.endpoint = endpoint
        """As it was when the request was built."""
        self.post: Post | None = None
        """The request, once it was built."""
        envelope = {
            "id": self.event_id,
            "type": event_type,
            "created": catalog.wire_time(database_now()),
            "data": data,
        }
        self._payload = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()

    @property
    def event_id(self) -> str:
        """As the receiver sees it; there is no such event."""
        return EVENT_PREFIX + self._event_id.hex

    def send(self, most_seconds: float) -> Response:
        """Send and wait for the response, for the webhook's timeout and `most_seconds` at most.

        Raises TransportError, and WebhookNotSendingError where the webhook was changed meanwhile.
        """
        # Here, so that web processes load libcurl with their first request only.
        from webhooks.wire.one import CurlAdapter

        adapter = CurlAdapter(AddressPolicy(settings.WEBHOOKS_ALLOWED_NETWORKS))
        draft = Draft(self.endpoint.url, self._build, lambda: self._read() == self.endpoint)
        try:
            return adapter.send(draft, timeout=min(self.endpoint.timeout_seconds, most_seconds))
        except WithdrawnError:
            raise WebhookNotSendingError from None

    def _read(self) -> Endpoint | None:
        self._endpoints.load([self._webhook_id])
        return self._endpoints.get(self._webhook_id)

    def _build(self) -> Post | None:
        endpoint = self._read()
        if endpoint is None:
            return None
        self.endpoint = endpoint
        signed = build_formed_request(
            endpoint,
            form=self._form,
            object_reference="",
            spec=self._spec,
            stored_version=self._stored_version,
            event_id=self._event_id,
            event_type=self._event_type,
            payload=self._payload,
            delivery_id=new_id(),
            attempt=1,
            timestamp=int(database_now().timestamp()),
        )
        headers = HeaderBlock([*signed.headers.lines, *self._extra_lines])
        self.post = Post(endpoint.url, signed.body, headers)
        return self.post
