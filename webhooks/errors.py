"""The errors of this app; an error's docstring is its default message."""

from collections.abc import Sequence


class WebhooksError(Exception):
    """A webhook operation failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class UrlRefusedError(WebhooksError):
    """This URL is not allowed for webhooks."""


class SecretRefusedError(WebhooksError):
    """This change of a webhook's signing secrets is not allowed."""


class EventTypeUnknownError(WebhooksError):
    """The catalogue has no such event type."""


class EventDataInvalidError(WebhooksError):
    """The data does not fit the schema of its event type."""

    def __init__(
        self, message: str | None = None, problems: Sequence[tuple[Sequence[str | int], str]] = ()
    ) -> None:
        """Take the problems one by one as well: where in the data each is, and what it is."""
        super().__init__(message)
        self.problems = problems


class OtherDatabaseError(WebhooksError):
    """Tracked models are written through the database `default`, which stores their events."""


class FilterInvalidError(WebhooksError):
    """This is not a filter of event data."""


class IdempotencyConflictError(WebhooksError):
    """This idempotency key was already used with other data."""


class StorageUnavailableError(WebhooksError):
    """The database is unavailable; try again, with the same idempotency key if there was one."""


class EncryptionKeyError(WebhooksError):
    """A stored value cannot be decrypted with any key in WEBHOOKS_ENCRYPTION_KEYS."""


class PublicIdInvalidError(WebhooksError):
    """This is not a valid public id."""


class RedeliveryScopeError(WebhooksError):
    """Select the deliveries: give ids, a webhook, an event or an owner."""


class CursorInvalidError(WebhooksError):
    """This is not a valid feed cursor; start again without a cursor."""


class CursorForeignError(CursorInvalidError):
    """This cursor belongs to another database, or to a lost state of this one; start without a cursor."""


class FeedRefusedError(WebhooksError):
    """The server refused to return its events."""


class TokenLimitError(WebhooksError):
    """The user has reached the maximum number of API tokens."""


class WebhookLimitError(WebhooksError):
    """The owner has reached the maximum number of webhooks."""


class WebhookNotSendingError(WebhooksError):
    """This webhook receives nothing: it is disabled, paused or undecryptable; enable it first."""


class WebhookUnprovedError(WebhooksError):
    """This URL's owner has not proved that they want our requests; verify the webhook first."""


class PortalLinkLimitError(WebhooksError):
    """The owner has reached the maximum number of open portal links."""


class PortalLinkInvalidError(WebhooksError):
    """This portal link was used already, has expired or was revoked; ask for a new one."""
