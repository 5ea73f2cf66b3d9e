"""The Standard Webhooks libraries of other languages verify what we sign."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.webhooks.signed_bodies import signed_bodies
from webhooks.wire.signing import SigningKey, generate_secret

pytestmark = pytest.mark.full

VERIFIERS = Path(__file__).resolve().parents[2] / "verifiers"
COUNT = 10_000


INSTALLS = {"node": "npm install --no-audit --no-fund", "go": "go mod download"}
COMMANDS = {"node": "node verify.mjs", "go": "go run ."}


@pytest.mark.parametrize("language", COMMANDS)
def test_reference_library_accepts_ten_thousand_bodies_and_no_tampered_one(
    language: str, tmp_path: Path
) -> None:
    if shutil.which(language) is None:
        pytest.skip(f"{language}: not installed here")
    folder = tmp_path / language
    shutil.copytree(VERIFIERS / language, folder)
    if subprocess.run(INSTALLS[language].split(), cwd=folder, check=False).returncode:
        pytest.skip(f"{language}: the reference library cannot be installed here")
    secrets = [generate_secret() for _ in range(2)]
    keys = [SigningKey.from_secret(secret) for secret in secrets]
    lines, expected = [], []
    for number, signed in enumerate(signed_bodies(keys, COUNT, seed=2)):
        body, is_tampered = signed.body, number % 10 == 9
        if is_tampered:
            body = body[:-1] + b"?" if body else b"?"
        lines.append(
            json.dumps(
                {
                    "secret": secrets[number % 2],
                    "headers": signed.headers,
                    "body": base64.b64encode(body).decode(),
                }
            )
        )
        expected.append("0" if is_tampered and body != signed.body else "1")

    done = subprocess.run(
        COMMANDS[language].split(),
        cwd=folder,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )

    assert len(done.stdout) == COUNT
    assert done.stdout == "".join(expected)
