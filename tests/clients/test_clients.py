"""Generators of clients read docs/openapi.yaml; what they make compiles and runs one flow.

`make clients` installs the generators below var/clients; one that cannot be had is skipped by name.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from projects.models import User
from tests.webhooks.api.conftest import make_token  # noqa: F401 (a fixture)
from webhooks.models import Redelivery, Webhook

HERE = Path(__file__).parent
DESCRIPTION = Path(settings.BASE_DIR) / "docs" / "openapi.yaml"
TOOLS = Path(settings.BASE_DIR) / "var" / "clients"
NODE = TOOLS / "node_modules" / ".bin"

pytestmark = [pytest.mark.clients, pytest.mark.django_db(transaction=True)]

Run = Callable[..., None]


def need(tool: Path | str) -> Path:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{Path(tool).name} is not installed")
    return Path(found)


@pytest.fixture
def run(live_server: Any, user: User, make_token: Any, tmp_path: Path) -> Run:  # noqa: F811
    """Return a function that runs a command in an empty folder, for an owner of nothing."""
    told = {"SERVER": live_server.url, "TOKEN": make_token(user), "NO_COLOR": "1"}

    def run(*command: str | Path, **more: str) -> None:
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | told | more, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]

    return run


def check_what_it_did() -> None:
    webhook = Webhook.objects.get()
    assert (webhook.name, webhook.deleted_at is None) == ("Renamed", False)
    assert Redelivery.objects.get().matched_count == 1


def test_openapi_python_client(run: Run, tmp_path: Path) -> None:
    python = TOOLS / "python" / "bin"
    generator = need(python / "openapi-python-client")

    run(generator, "generate", "--path", DESCRIPTION, "--output-path", "out", "--fail-on-warning",
        PATH=f"{Path(settings.BASE_DIR) / '.venv' / 'bin'}:{os.environ['PATH']}")  # fmt: skip
    run(python / "python", HERE / "openapi_python_client.py.txt", PYTHONPATH=str(tmp_path / "out"))

    check_what_it_did()


def test_hey_api(run: Run, tmp_path: Path) -> None:
    generator, compiler, node = need(NODE / "openapi-ts"), need(NODE / "tsc"), need("node")
    shutil.copy(HERE / "hey_api.ts", tmp_path / "flow.ts")
    (tmp_path / "node_modules").symlink_to(TOOLS / "node_modules")

    run(generator, "-i", DESCRIPTION, "-o", "client", "-c", "@hey-api/client-fetch")
    run(compiler, "--strict", "--module", "commonjs", "--target", "es2022", "--skipLibCheck",
        "--types", "node", "--outDir", "built", "flow.ts")  # fmt: skip
    run(node, "built/flow.js")

    check_what_it_did()


def test_oapi_codegen(run: Run, tmp_path: Path) -> None:
    generator, go = need(TOOLS / "go" / "oapi-codegen"), need("go")
    shutil.copy(HERE / "oapi_codegen.go.txt", tmp_path / "main.go")
    (tmp_path / "go.mod").write_text("module flow\n\ngo 1.25\n")

    run(
        generator,
        "-generate",
        "types,client",
        "-package",
        "main",
        "-o",
        "client.gen.go",
        DESCRIPTION,
    )
    run(go, "mod", "tidy")
    run(go, "run", ".")

    check_what_it_did()


def test_ogen(run: Run, tmp_path: Path) -> None:
    generator, go = need(TOOLS / "go" / "ogen"), need("go")
    shutil.copy(HERE / "ogen.go.txt", tmp_path / "main.go")
    (tmp_path / "go.mod").write_text("module flow\n\ngo 1.25\n")

    run(generator, "--target", "client", "--package", "client", DESCRIPTION)
    run(go, "mod", "tidy")
    run(go, "run", ".")

    check_what_it_did()


JAR = TOOLS / "openapi-generator-cli-7.17.0.jar"


@dataclass(frozen=True)
class Language:
    """How a client of openapi-generator is generated, compiled and run."""

    generator: str
    flow: str
    """The program that uses the client."""
    copy: str
    """Where it lies, beside or in the client's folder."""
    commands: tuple[tuple[str | Path, ...], ...]
    options: tuple[str, ...] = ()
    output: str = "client"
    cannot_read: str = ""
    """A part of the description that this generator makes no valid code of."""


LANGUAGES = {
    "java": Language(
        "java", "Flow.java", "src/main/java/Flow.java",
        (("mvn", "-q", "-B", "-DskipTests", "compile", "dependency:copy-dependencies",
          "-DoutputDirectory=lib"),
         ("java", "-cp", "target/classes:lib/*", "Flow")),
        # Without it a change would name every list and dictionary, as empty.
        ("--additional-properties=containerDefaultToNull=true",),
        output=".",
    ),
    "go": Language(
        "go", "openapi_generator.go.txt", "main.go",
        (("rm", "-r", "client/go.mod", "client/go.sum", "client/test"),
         ("go", "mod", "init", "flow"), ("go", "mod", "tidy"), ("go", "vet", "./..."),
         ("go", "run", ".")),
        # Without the prefix constants of two enums would have one name.
        ("--package-name=client", "--additional-properties=enumClassPrefix=true"),
    ),
    "python": Language(
        "python", "openapi_generator.py.txt", "flow.py",
        ((TOOLS / "python" / "bin" / "python", "flow.py"),),
        output=".",
        # It writes parameters of webhooks without their type, which is no Python.
        cannot_read="webhooks",
    ),
    "typescript": Language(
        "typescript-fetch", "openapi_generator.ts", "flow.ts",
        ((NODE / "tsc", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "commonjs",
          "--types", "node", "--lib", "es2022,dom", "--outDir", "built", "flow.ts"),
         ("node", "built/flow.js")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGES)
def test_openapi_generator(name: str, run: Run, tmp_path: Path) -> None:
    java, language = need("java"), LANGUAGES[name]
    if not JAR.exists():
        pytest.skip(f"{JAR.name} is not installed")
    for command in language.commands:
        need(command[0])
    description = yaml.safe_load(DESCRIPTION.read_text())
    description.pop(language.cannot_read, None)
    (tmp_path / "description.json").write_text(json.dumps(description))
    (tmp_path / "node_modules").symlink_to(TOOLS / "node_modules")

    run(java, "-jar", JAR, "generate", "-g", language.generator, "-i", "description.json",
        "-o", language.output, *language.options)  # fmt: skip
    shutil.copy(HERE / language.flow, tmp_path / language.copy)
    for command in language.commands:
        run(*command)

    check_what_it_did()


def test_linters_find_nothing(run: Run) -> None:
    redocly, spectral = need(NODE / "redocly"), need(NODE / "spectral")

    run(redocly, "lint", "--extends=recommended", "--max-problems=50", DESCRIPTION)
    run(spectral, "lint", "--ruleset", HERE / "spectral.yaml", "--fail-severity=hint", DESCRIPTION)
