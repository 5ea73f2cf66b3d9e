"""The handlers in docs/receiving.md: they compile, and Django's does what it says."""

import importlib.util
import json
import re
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from django.test import RequestFactory

from config.services import BASE_DIR
from webhooks.ids import new_id
from webhooks.wire.request import build_request
from webhooks.wire.signing import SigningKey, generate_secret
from webhooks.workbench.listen import Target

PAGE = (BASE_DIR / "docs" / "receiving.md").read_text()
VERIFY = BASE_DIR / "webhooks" / "workbench" / "snippets" / "python" / "verify.py"
HANDLERS = dict(re.findall(r"### (\w+)\n\n```python\n(.*?)```", PAGE, re.DOTALL))


def verify_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify", VERIFY)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("framework", ["Django", "Flask", "FastAPI"])
def test_handler_is_python(framework: str) -> None:
    compile(HANDLERS[framework], framework, "exec")


def test_handler_for_django_accepts_ours_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = generate_secret()
    monkeypatch.setenv("WEBHOOK_SECRET", f"{generate_secret()} {secret}")
    monkeypatch.setitem(sys.modules, "verify", verify_module())
    handled: list[tuple[str, object]] = []
    page: dict[str, object] = {"handle_later": lambda *event: handled.append(event)}
    exec(compile(HANDLERS["Django"], "page", "exec"), page)  # noqa: S102 (our own page)
    key = SigningKey.from_secret(secret)
    post = build_request(
        Target("https://example.com", key),
        event_id=new_id(),
        event_type="project.created",
        payload=b'{"type":"project.created"}',
        delivery_id=new_id(),
        attempt=1,
        timestamp=int(time.time()),
    )
    headers = dict(post.headers.items())

    def status(body: bytes, method: str = "POST") -> int:
        request = RequestFactory().generic(method, "/", body, "application/json", headers=headers)
        return int(page["webhook"](request).status_code)  # type: ignore[operator]

    assert post.body is not None
    assert status(bytes(post.body)) == 204
    assert [event for _, event in handled] == [json.loads(post.body)]
    assert status(bytes(post.body) + b" ") == 401
    assert status(bytes(post.body), "GET") == 405


def test_every_named_file_and_command_exists() -> None:
    named = set(re.findall(r"`((?:webhooks|docs)/[a-z_/]+)`", PAGE))

    assert named
    assert all(Path(BASE_DIR / name).exists() for name in named)
