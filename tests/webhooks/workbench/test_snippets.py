"""The snippets in webhooks/workbench/snippets, run as they stand against the shared vectors."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from webhooks.wire.signing import verify_standard

SNIPPETS = Path(__file__).resolve().parents[3] / "webhooks" / "workbench" / "snippets"
VECTORS: list[dict[str, Any]] = json.loads((SNIPPETS / "vectors.json").read_text())

COMMANDS: dict[str, tuple[str, Callable[[str, Path], list[str]]]] = {
    "python": (sys.executable, lambda runtime, _: [runtime, "python/verify.py"]),
    "node": ("node", lambda runtime, _: [runtime, "node/verify.mjs"]),
    "go": ("go", lambda runtime, folder: _built_by_go(runtime, folder)),
    "java": ("java", lambda runtime, folder: _built_by_java(runtime, folder)),
    "perl": ("perl", lambda runtime, _: [runtime, "perl/verify.pl"]),
    "ruby": ("ruby", lambda runtime, _: [runtime, "ruby/verify.rb"]),
    "php": ("php", lambda runtime, _: [runtime, "php/verify.php"]),
    "bash": ("bash", lambda runtime, _: [runtime, "bash/verify.sh"]),
}


def _built_by_go(runtime: str, folder: Path) -> list[str]:
    program = folder / "verify"
    subprocess.run([runtime, "build", "-o", program, "go/verify.go"], cwd=SNIPPETS, check=True)
    return [str(program)]


def _built_by_java(runtime: str, folder: Path) -> list[str]:
    compiler = Path(runtime).resolve().with_name("javac")
    if not compiler.exists():
        pytest.skip("java: the compiler is not installed here")
    subprocess.run([compiler, "-d", folder, "java/Verify.java"], cwd=SNIPPETS, check=True)
    return [runtime, "-cp", str(folder), "Verify"]


@pytest.mark.parametrize(
    "language",
    # Go compiles its library the first time, which takes long.
    [pytest.param(name, marks=[pytest.mark.full] if name == "go" else []) for name in COMMANDS],
)
def test_snippet_agrees_with_every_vector(language: str, tmp_path: Path) -> None:
    executable, build = COMMANDS[language]
    runtime = shutil.which(executable)
    if runtime is None or (language == "bash" and shutil.which("openssl") is None):
        pytest.skip(f"{language}: not installed here")
    command = build(runtime, tmp_path)

    verdicts = {vector["name"]: _run(command, vector) for vector in VECTORS}

    assert verdicts == {vector["name"]: vector["valid"] for vector in VECTORS}


def _run(command: list[str], vector: dict[str, Any]) -> bool:
    environment = os.environ | {
        "WEBHOOK_SECRET": " ".join(vector["secrets"]),
        "WEBHOOK_ID": vector["id"],
        "WEBHOOK_TIMESTAMP": vector["timestamp"],
        "WEBHOOK_SIGNATURE": vector["signature"],
        "WEBHOOK_NOW": str(vector["now"]),
    }
    done = subprocess.run(
        command,
        cwd=SNIPPETS,
        env=environment,
        input=vector["body"].encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr.decode()
    return done.returncode == 0


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_our_own_verification_agrees_with_every_vector(vector: dict[str, Any]) -> None:
    headers = {
        "webhook-id": vector["id"],
        "webhook-timestamp": vector["timestamp"],
        "webhook-signature": vector["signature"],
    }

    verdicts = [
        verify_standard(secret, headers, vector["body"].encode(), now=vector["now"])
        for secret in vector["secrets"]
    ]

    assert any(verdicts) == vector["valid"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("webhook-timestamp", "9" * 5000),
        ("webhook-id", "\udcff"),
        ("webhook-signature", "v1,\udcff"),
    ],
)
def test_python_snippet_refuses_hostile_headers_without_an_error(name: str, text: str) -> None:
    # As a program it cannot show an error: Python ends with the same code.
    verify = runpy.run_path(str(SNIPPETS / "python" / "verify.py"))["verify"]
    vector = next(one for one in VECTORS if one["valid"])
    headers = {
        "webhook-id": vector["id"],
        "webhook-timestamp": vector["timestamp"],
        "webhook-signature": vector["signature"],
    }
    body = vector["body"].encode()

    assert verify(vector["secrets"], headers, body, now=vector["now"])
    assert not verify(vector["secrets"], headers | {name: text}, body, now=vector["now"])
