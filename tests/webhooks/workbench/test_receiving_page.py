"""The handlers in docs/receiving.md: they compile, and Django's does what it says."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
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
SNIPPETS = BASE_DIR / "webhooks" / "workbench" / "snippets"
VERIFY = SNIPPETS / "python" / "verify.py"
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


CODE = dict(re.findall(r"### (\w+)\n\n```(?:js|go|ruby|php|java)\n(.*?)```", PAGE, re.DOTALL))
GO_AROUND = """package main

import (
	"io"
	"net/http"
	"time"
)

func handleLater(id string, body []byte) {}

func serve(secrets []string) {
%s}
"""
SPRING = {
    "RestController": "public @interface RestController {}",
    "PostMapping": "public @interface PostMapping { String value(); }",
    "RequestHeader": "public @interface RequestHeader {}",
    "RequestBody": "public @interface RequestBody {}",
    "ResponseEntity": """public class ResponseEntity<T> {
        public static Builder status(int code) { return new Builder(); }
        public static Builder noContent() { return new Builder(); }
        public static class Builder { public <T> ResponseEntity<T> build() { return null; } }
    }""",
}
"""What the handler uses of Spring, by its signatures: it is compiled against these."""


def runtime_of(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def check(command: list[str], folder: Path) -> None:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_page_has_handlers_for_eight_frameworks() -> None:
    assert HANDLERS.keys() | CODE.keys() == {
        "Django", "Flask", "FastAPI", "Express", "Go", "Rails", "Laravel", "Spring",
    }  # fmt: skip


def test_handler_for_express_answers_ours_and_nothing_else(tmp_path: Path) -> None:
    node = runtime_of("node")
    (tmp_path / "verify.mjs").write_text((SNIPPETS / "node" / "verify.mjs").read_text())
    express = tmp_path / "node_modules" / "express"
    express.mkdir(parents=True)
    (express / "package.json").write_text('{"name":"express","type":"module","main":"index.js"}')
    # Express as the handler uses it: a route with the raw body, run once for each request given.
    (express / "index.js").write_text(EXPRESS)
    (tmp_path / "handler.mjs").write_text("const handleLater = () => {};\n" + CODE["Express"])
    now = int(time.time())
    secret = generate_secret()
    body = b'{"type":"project.created"}'
    post = build_request(
        Target("https://example.com", SigningKey.from_secret(secret)),
        event_id=new_id(), event_type="project.created", payload=body, delivery_id=new_id(),
        attempt=1, timestamp=now,
    )  # fmt: skip
    requests = [
        {"headers": {k.lower(): v for k, v in post.headers.items()}, "body": given.decode()}
        for given in (body, body + b" ")
    ]

    ran = subprocess.run(
        [node, "handler.mjs"],
        cwd=tmp_path,
        env=os.environ | {"WEBHOOK_SECRET": secret, "REQUESTS": json.dumps(requests)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [204, 401]


EXPRESS = """
const routes = {};
const express = () => ({ post: (path, raw, handler) => (routes[path] = handler), listen: () => {} });
express.raw = () => null;
export default express;
setImmediate(() => {
  const codes = JSON.parse(process.env.REQUESTS).map(({ headers, body }) => {
    let code = 0;
    routes["/webhook"]({ headers, body: Buffer.from(body) }, { sendStatus: (one) => (code = one) });
    return code;
  });
  console.log(JSON.stringify(codes));
});
"""


@pytest.mark.slow
def test_handler_for_go_compiles(tmp_path: Path) -> None:
    go = runtime_of("go")
    (tmp_path / "verify.go").write_text((SNIPPETS / "go" / "verify.go").read_text())
    (tmp_path / "handler.go").write_text(GO_AROUND % CODE["Go"])

    check([go, "build", "-o", "program", "verify.go", "handler.go"], tmp_path)


@pytest.mark.slow
def test_handler_for_spring_compiles(tmp_path: Path) -> None:
    javac = runtime_of("javac")
    for name, source in SPRING.items():
        (tmp_path / f"{name}.java").write_text(source)
    (tmp_path / "Verify.java").write_text((SNIPPETS / "java" / "Verify.java").read_text())
    handler = CODE["Spring"].rstrip().removesuffix("}")
    (tmp_path / "WebhookController.java").write_text(
        "import java.time.Instant;\nimport java.util.List;\nimport java.util.Map;\n"
        f"{handler}  void handleLater(String id, byte[] body) {{}}\n}}\n"
    )

    check([javac, "WebhookController.java"], tmp_path)


@pytest.mark.parametrize(("framework", "runtime"), [("Rails", "ruby"), ("Laravel", "php")])
def test_handler_is_of_its_language(framework: str, runtime: str, tmp_path: Path) -> None:
    file = tmp_path / "handler"
    file.write_text(CODE[framework])

    check([runtime_of(runtime), {"ruby": "-c", "php": "-l"}[runtime], str(file)], tmp_path)


def test_every_named_file_and_command_exists() -> None:
    named = set(re.findall(r"`((?:webhooks|docs)/[a-z_/]+)`", PAGE))

    assert named
    assert all(Path(BASE_DIR / name).exists() for name in named)
