"""How the site and its workers log: one line or one JSON object per record, with the request's id."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from webhooks.api.context import request_id

LEVELS = ("INFO", "DEBUG", "WARNING", "ERROR")
FORMATS = ("line", "json")
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id"}
"""Attributes that every record has; others came with `extra`."""


class RequestIdFilter(logging.Filter):
    """Adds the id of the request that this thread works for, or `-`."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get() or "-"
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
    """Return LOGGING: everything goes to stderr, from `level` on, as `line` or `json`.

    Each response of 500 logs once: `webhooks` logs those of the API, `django.request` all others.
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
            # Django would mail the administrators; 4xx are the client's.
            "django.request": {"handlers": ["console"], "level": "ERROR", "propagate": False},
            "django.server": {"level": "ERROR"},
        },
    }


def report_to_sentry(dsn: str) -> None:
    """Report errors to Sentry, without request bodies, headers, addresses or local variables."""
    # Here, so that nobody else needs the package.
    import sentry_sdk

    sentry_sdk.init(
        dsn=dsn,
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        before_send=_without_headers,
    )


def _without_headers(event: Any, hint: Any) -> Any:
    """Bearer tokens and cookies stay here."""
    for name in ("headers", "cookies", "query_string"):
        event.get("request", {}).pop(name, None)
    return event
