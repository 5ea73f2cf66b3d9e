"""Logging of the site and its workers: a line or a JSON object per record, with the request's id."""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from webhooks.api.context import request_id

LEVELS = ("INFO", "DEBUG", "WARNING", "ERROR")
FORMATS = ("line", "json")
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id"}
"""The attributes of every record; any others come from `extra`."""


PORTAL_KEY = re.compile(r"(/portal/(?:s|open)/)[^/?#\s]+")
"""In the path of a portal session, or of a link: whoever knows it is let in."""


def hide_keys(text: str) -> str:
    """Return a text without the keys that stand in paths of the portal."""
    return PORTAL_KEY.sub(r"\1•••", text) if "/portal/" in text else text


class RequestIdFilter(logging.Filter):
    """Add the id of the request that this thread handles, or `-`; hide the keys in its path."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get() or "-"
        record.msg = hide_keys(record.msg) if isinstance(record.msg, str) else record.msg
        if isinstance(record.args, tuple):
            record.args = tuple(
                hide_keys(one) if isinstance(one, str) else one for one in record.args
            )
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, request_id, `extra`, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "request_id", "-") != "-":
            line["request_id"] = record.request_id  # type: ignore[attr-defined]
        line |= {
            name: value
            for name, value in vars(record).items()
            if name not in STANDARD and isinstance(value, str | int | float | bool | None)
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configuration(level: str, form: str) -> dict[str, Any]:
    """Return LOGGING, which writes records of at least `level` to stderr as `line` or `json`.

    Each response with status 500 is logged once: by `webhooks` for the API, else by `django.request`.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": "config.logs.RequestIdFilter"}},
        "formatters": {
            "line": {
                "format": "{asctime} {levelname} {name} [{request_id}]: {message}",
                "style": "{",
            },
            "json": {"()": "config.logs.JsonFormatter"},
        },
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "formatter": form,
                "filters": ["request_id"],
            }
        },
        "root": {"handlers": ["console"], "level": "WARNING"},
        "loggers": {
            "webhooks": {"level": level},
            # Django would mail the administrators; status 4xx is the client's fault.
            "django.request": {"handlers": ["console"], "level": "ERROR", "propagate": False},
            "django.server": {"level": "ERROR"},
        },
    }


def report_to_sentry(dsn: str) -> None:
    """Report errors to Sentry, without request bodies, headers, addresses or local variables."""
    # Only installations with Sentry need the package.
    import sentry_sdk
    from sentry_sdk.utils import BadDsn

    try:
        sentry_sdk.init(
            dsn=dsn,
            send_default_pii=False,
            include_local_variables=False,
            max_request_body_size="never",
            before_send=_without_headers,
        )
    except BadDsn:
        raise ImproperlyConfigured("SENTRY_DSN must be of the form https://key@host/1.") from None


def _without_headers(event: Any, hint: Any) -> Any:
    """Remove bearer tokens, cookies and the portal's keys from an event."""
    request = event.get("request", {})
    for name in ("headers", "cookies", "query_string"):
        request.pop(name, None)
    for place, name in ((request, "url"), (event, "transaction")):
        if isinstance(place.get(name), str):
            place[name] = hide_keys(place[name])
    return event
