"""The handlers in docs/receiving.md: they compile, and Django's does what it says."""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

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


def django_status(page: dict[str, Any], headers: dict[str, str], body: bytes) -> int:
    request = RequestFactory().generic("POST", "/", body, "application/json", headers=headers)
    return int(page["webhook"](request).status_code)


def flask_status(page: dict[str, Any], headers: dict[str, str], body: bytes) -> int:
    posted = page["app"].test_client().post("/webhook", data=body, headers=headers)
    return int(posted.status_code)


def fastapi_status(page: dict[str, Any], headers: dict[str, str], body: bytes) -> int:
    """Call the application as its server does; its own test client needs another package."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/webhook",
        "query_string": b"",
        "headers": raw,
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(page["app"](scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("framework", "status"),
    [("Django", django_status), ("Flask", flask_status), ("FastAPI", fastapi_status)],
)
def test_handler_in_python_accepts_ours_and_nothing_else(
    framework: str,
    status: Callable[[dict[str, Any], dict[str, str], bytes], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = generate_secret()
    monkeypatch.setenv("WEBHOOK_SECRET", f"{generate_secret()} {secret}")
    monkeypatch.setitem(sys.modules, "verify", verify_module())
    handled: list[object] = []
    # Not a real module: FastAPI reads the annotations in the names of the page.
    page: dict[str, Any] = {
        "handle_later": lambda _, event: handled.append(event),
        "__name__": "page",
    }
    exec(compile(HANDLERS[framework], "page", "exec"), page)  # noqa: S102 (our own page)
    (given, changed) = given_requests(secret)
    headers = cast(dict[str, str], given["headers"])

    assert status(page, headers, str(given["body"]).encode()) == 204
    assert handled == [{"type": "project.created"}]
    assert status(page, headers, str(changed["body"]).encode()) == 401
    assert len(handled) == 1


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


def given_requests(secret: str) -> list[dict[str, object]]:
    """Return a request of ours and the same with a changed body."""
    body = b'{"type":"project.created"}'
    post = build_request(
        Target("https://example.com", SigningKey.from_secret(secret)),
        event_id=new_id(), event_type="project.created", payload=body, delivery_id=new_id(),
        attempt=1, timestamp=int(time.time()),
    )  # fmt: skip
    headers = {name.lower(): value for name, value in post.headers.items()}
    return [{"headers": headers, "body": given.decode()} for given in (body, body + b" ")]


def statuses(command: list[str], folder: Path) -> list[int]:
    """Return the handler's responses to given_requests()."""
    secret = generate_secret()
    requests = json.dumps(given_requests(secret))
    ran = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"WEBHOOK_SECRET": secret, "REQUESTS": requests},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: list[int] = json.loads(ran.stdout)
    return found


# Frameworks as the handlers use them: each handler runs once for each request given.

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
RAILS = """
require "json"
require "./verify"

module ActionController
  class API
    Request = Struct.new(:headers, :raw_post)
    CODES = { unauthorized: 401, no_content: 204 }
    attr_reader :request, :code

    def initialize(headers, body) = @request = Request.new(headers, body)
    def head(status) = @code = CODES.fetch(status)
  end
end

class HandleWebhookJob
  def self.perform_later(id, body) = JSON.parse(body)
end

require "./handler"

codes = JSON.parse(ENV.fetch("REQUESTS")).map do |one|
  controller = WebhooksController.new(one["headers"], one["body"])
  controller.create
  controller.code
end
puts JSON.generate(codes)
"""
LARAVEL = r"""<?php
namespace Illuminate\Http {
    class Request {
        public function __construct(private array $headers, private string $body) {}
        public function header(string $name, $default = null) { return $this->headers[$name] ?? $default; }
        public function getContent() { return $this->body; }
    }
}
namespace Illuminate\Support\Facades {
    class Route {
        public static array $routes = [];
        public static function post(string $path, callable $handler) { self::$routes[$path] = $handler; }
    }
}
namespace {
    class HandleWebhook {
        public static function dispatch(string $id, string $body) { json_decode($body, flags: JSON_THROW_ON_ERROR); }
    }
    function env(string $name) { return getenv($name); }
    function response(string $body, int $code) { return $code; }
    require __DIR__ . "/handler.php";
    $codes = [];
    foreach (json_decode(getenv("REQUESTS"), true) as $one) {
        $handler = Illuminate\Support\Facades\Route::$routes["/webhook"];
        $codes[] = $handler(new Illuminate\Http\Request($one["headers"], $one["body"]));
    }
    echo json_encode($codes);
}
"""


def test_handler_for_express_answers_ours_and_nothing_else(tmp_path: Path) -> None:
    node = runtime_of("node")
    (tmp_path / "verify.mjs").write_text((SNIPPETS / "node" / "verify.mjs").read_text())
    express = tmp_path / "node_modules" / "express"
    express.mkdir(parents=True)
    (express / "package.json").write_text('{"name":"express","type":"module","main":"index.js"}')
    (express / "index.js").write_text(EXPRESS)
    (tmp_path / "handler.mjs").write_text("const handleLater = () => {};\n" + CODE["Express"])

    assert statuses([node, "handler.mjs"], tmp_path) == [204, 401]


@pytest.mark.parametrize(
    ("framework", "runtime", "suffix", "around"),
    [("Rails", "ruby", "rb", RAILS), ("Laravel", "php", "php", LARAVEL)],
)
def test_handler_answers_ours_and_nothing_else(
    framework: str, runtime: str, suffix: str, around: str, tmp_path: Path
) -> None:
    program = runtime_of(runtime)
    verify = f"verify.{suffix}"
    (tmp_path / verify).write_text((SNIPPETS / runtime / verify).read_text())
    (tmp_path / f"handler.{suffix}").write_text(CODE[framework])
    (tmp_path / f"around.{suffix}").write_text(around)

    assert statuses([program, f"around.{suffix}"], tmp_path) == [204, 401]


def test_every_named_file_and_command_exists() -> None:
    named = set(re.findall(r"`((?:webhooks|docs)/[a-z_/]+)`", PAGE))

    assert named
    assert all(Path(BASE_DIR / name).exists() for name in named)
