"""Every error this app raises on purpose; the docstring is the message a caller sees by default."""


class WebhooksError(Exception):
    """Something about webhooks went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class UrlRefusedError(WebhooksError):
    """A webhook may not have this URL."""


class SecretRefusedError(WebhooksError):
    """This cannot be done with a webhook's signing secrets."""


class EventTypeUnknownError(WebhooksError):
    """There is no such event type in the catalogue."""


class EventDataInvalidError(WebhooksError):
    """The data does not fit the schema of its event type."""


class IdempotencyConflictError(WebhooksError):
    """This idempotency key was already used with other data."""


class StorageUnavailableError(WebhooksError):
    """The database does not answer; try again, with the same idempotency key where there is one."""


class EncryptionKeyError(WebhooksError):
    """A stored value cannot be decrypted with any key in WEBHOOKS_ENCRYPTION_KEYS."""


class PublicIdInvalidError(WebhooksError):
    """This is not a valid public id."""


class RedeliveryScopeError(WebhooksError):
    """Say which deliveries: name some, or choose a webhook, an event or an owner."""


class CursorInvalidError(WebhooksError):
    """This is not a cursor of the feed; start again without one."""


class CursorForeignError(CursorInvalidError):
    """This cursor is of another database, or of a lost state of this one; start without one."""


class FeedRefusedError(WebhooksError):
    """The server does not give its events to us."""


class WebhookLimitError(WebhooksError):
    """An owner has as many webhooks as there may be."""


class WebhookNotSendingError(WebhooksError):
    """Nothing is sent to this webhook: it is disabled, paused or undecryptable; enable it first."""
