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
