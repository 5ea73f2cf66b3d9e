"""Generators of clients read docs/openapi.yaml; what they make compiles and runs one flow.

`make clients` installs the generators below var/clients; one that cannot be had is skipped by name.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
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
    run(python / "python", HERE / "flow.py.txt", PYTHONPATH=str(tmp_path / "out"))

    check_what_it_did()


def test_hey_api(run: Run, tmp_path: Path) -> None:
    generator, compiler, node = need(NODE / "openapi-ts"), need(NODE / "tsc"), need("node")
    shutil.copy(HERE / "flow.ts", tmp_path)
    (tmp_path / "node_modules").symlink_to(TOOLS / "node_modules")

    run(generator, "-i", DESCRIPTION, "-o", "client", "-c", "@hey-api/client-fetch")
    run(compiler, "--strict", "--module", "commonjs", "--target", "es2022", "--skipLibCheck",
        "--types", "node", "--outDir", "built", "flow.ts")  # fmt: skip
    run(node, "built/flow.js")

    check_what_it_did()


def test_oapi_codegen(run: Run, tmp_path: Path) -> None:
    generator, go = need(TOOLS / "go" / "oapi-codegen"), need("go")
    shutil.copy(HERE / "flow.go.txt", tmp_path / "main.go")
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


def test_ogen_generates_what_compiles(run: Run, tmp_path: Path) -> None:
    generator, go = need(TOOLS / "go" / "ogen"), need("go")
    (tmp_path / "go.mod").write_text("module flow\n\ngo 1.25\n")

    run(generator, "--target", "client", "--package", "client", DESCRIPTION)
    run(go, "mod", "tidy")
    run(go, "build", "./...")


JAR = TOOLS / "openapi-generator-cli-7.17.0.jar"
COMPILERS: dict[str, list[list[str]]] = {
    "java": [["mvn", "-q", "-B", "-DskipTests", "compile"]],
    "go": [["go", "mod", "tidy"], ["go", "vet", "."]],
    "python": [["python", "-m", "compileall", "-q", "."]],
    "typescript-fetch": [[str(NODE / "tsc"), "--noEmit", "--strict", "--skipLibCheck", "--target", "es2022",
                          "--module", "commonjs", "--lib", "es2022,dom", "index.ts"]],
}  # fmt: skip


@pytest.mark.parametrize("language", COMPILERS)
def test_openapi_generator(language: str, run: Run, tmp_path: Path) -> None:
    java = need("java")
    if not JAR.exists():
        pytest.skip(f"{JAR.name} is not installed")
    for command in COMPILERS[language]:
        need(command[0])

    description = yaml.safe_load(DESCRIPTION.read_text())
    if language == "python":
        # This generator writes parameters of webhooks without their type, which is no Python.
        del description["webhooks"]
    (tmp_path / "description.json").write_text(json.dumps(description))
    # In Go constants of two enums would have one name.
    options = ["--additional-properties=enumClassPrefix=true"] if language == "go" else []
    run(
        java, "-jar", JAR, "generate", "-g", language, "-i", "description.json", "-o", ".", *options
    )
    for command in COMPILERS[language]:
        run(*command)


def test_linters_find_nothing(run: Run) -> None:
    redocly, spectral = need(NODE / "redocly"), need(NODE / "spectral")

    run(redocly, "lint", "--extends=recommended", "--max-problems=50", DESCRIPTION)
    run(spectral, "lint", "--ruleset", HERE / "spectral.yaml", "--fail-severity=hint", DESCRIPTION)
