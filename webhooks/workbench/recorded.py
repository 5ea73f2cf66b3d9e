"""Requests kept as files by `manage.py receiver --save`, to look at and to verify later."""

import json
from base64 import b64decode, b64encode
from pathlib import Path

from webhooks.workbench.receiver import Received, verdicts


def save(received: Received, folder: Path, number: int) -> Path:
    """Write one request as a JSON file and return its path."""
    # Only what is safe in a name: the id comes from a stranger.
    event_id = "".join(letter for letter in received.event_id if letter.isalnum() or letter in "_-")
    path = folder / f"{number:06}-{event_id[:60] or 'unknown'}.json"
    path.write_text(
        json.dumps(
            {
                "receivedAt": received.received_at,
                "path": received.path,
                "headers": [list(pair) for pair in received.raw_headers],
                "body": b64encode(received.body).decode(),
                "text": received.body.decode(errors="replace"),
                "status": received.status,
            },
            ensure_ascii=False,
            indent=2,
        )
    )
    return path


def load(path: Path, secrets: list[str]) -> Received:
    """Read a saved request and verify it as of the time it came; raises ValueError."""
    try:
        stored = json.loads(path.read_text())
        pairs = tuple((str(name), str(value)) for name, value in stored["headers"])
        body = b64decode(stored["body"], validate=True)
        received_at = float(stored["receivedAt"])
        where, status = str(stored["path"]), int(stored["status"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a request saved by manage.py receiver --save.") from None
    headers = {name.lower(): value for name, value in pairs}
    standard_ok, hex_ok = verdicts(secrets, headers, body, received_at)
    return Received(
        received_at=received_at,
        connection=0,
        path=where,
        raw_headers=pairs,
        headers=headers,
        body=body,
        status=status,
        standard_ok=standard_ok,
        hex_ok=hex_ok,
    )
