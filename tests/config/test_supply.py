"""Lock files, advisories, and the bill of materials."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from config import supply
from webhooks.repair.doctor import check_libraries

LOCKS = [
    "requirements", "requirements-dev", "requirements-e2e", "requirements-bench", "requirements-docs",
    "requirements-package",
]  # fmt: skip


def pins(name: str) -> dict[str, str]:
    """What a requirements file pins itself."""
    found = {}
    for line in (supply.ROOT / f"{name}.txt").read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", line):
            found[supply.normalized(match[1])] = match[2]
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_every_pin_with_hashes(name: str) -> None:
    entries = supply.locked(supply.ROOT / f"{name}.lock")
    versions = {entry.name: entry.version for entry in entries}

    assert all(entry.hashes for entry in entries)
    assert pins(name).items() <= versions.items()
    assert "://" not in (supply.ROOT / f"{name}.lock").read_text()


def test_environments_of_one_machine_agree() -> None:
    dev = {entry.name: entry.version for entry in supply.locked(supply.ROOT / supply.LOCK)}
    # Peers of the benchmarks hold some of theirs back.
    for name in LOCKS[:3]:
        for entry in supply.locked(supply.ROOT / f"{name}.lock"):
            assert dev.get(entry.name, entry.version) == entry.version, (name, entry.name)


@pytest.mark.parametrize("name", ["django", "rq", "requests", "pycurl", "urllib3", "cryptography"])
def test_what_is_locked_is_installed(name: str) -> None:
    dev = {entry.name: entry.version for entry in supply.locked(supply.ROOT / supply.LOCK)}
    assert version(name) == dev[name]


def test_audit_without_a_database_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert supply.audit(tmp_path / "none") == 0
    assert "nothing was compared" in capsys.readouterr().out


def advisory(name: str, *versions: str, **more: str) -> str:
    package = {"ecosystem": "PyPI", "name": name}
    affected = [{"package": package, "versions": list(versions)}]
    return json.dumps({"id": "PYSEC-1", "summary": "bad", "affected": affected, **more})


def test_audit_finds_what_is_locked_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = {entry.name: entry.version for entry in supply.locked(supply.ROOT / supply.LOCK)}
    (tmp_path / "a.json").write_text(advisory("Django", "1.0", locked["django"]))
    (tmp_path / "b.json").write_text(advisory("requests", "1.0"))
    (tmp_path / "c.json").write_text(advisory("rq", locked["rq"], withdrawn="2026-01-01"))

    assert supply.audit(tmp_path) == 1

    assert capsys.readouterr().out.splitlines()[0] == f"django {locked['django']}: PYSEC-1 (bad)"


def test_bill_of_materials_names_every_package() -> None:
    path = supply.ROOT / "requirements.lock"
    names = {one["name"] for one in supply.sbom(path)["components"]}

    assert names == {entry.name for entry in supply.locked(path)}
    assert {"django", "pycurl", "urllib3"} <= names


def test_doctor_tells_what_the_wheels_brought() -> None:
    (found,) = check_libraries()

    for name in ("libcurl ", "OpenSSL", "libpq"):
        assert name in found.message
