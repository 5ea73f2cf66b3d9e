"""Audit and list the locked packages: `python -m config.supply audit` and `… sbom`.

`audit` compares the locked versions with a database of advisories, a folder of OSV's JSON files
(https://osv.dev, ecosystem PyPI), named by ADVISORIES. It needs no network; without the folder it says
that nothing was compared.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_DATABASE = ROOT / "var" / "advisories"
LOCK = "requirements-dev.lock"
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Locked(NamedTuple):
    """One entry of a lock file; names are normalized as in PEP 503."""

    name: str
    version: str
    hashes: tuple[str, ...]


def locked(path: Path) -> list[Locked]:
    """Return the entries of a lock file."""
    entries: list[Locked] = []
    for line in path.read_text().splitlines():
        if found := ENTRY.match(line):
            entries.append(Locked(normalized(found["name"]), found["version"], ()))
        elif entries:
            last = entries[-1]
            entries[-1] = last._replace(hashes=(*last.hashes, *HASH.findall(line)))
    return entries


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def findings(entries: list[Locked], database: Path) -> Iterator[str]:
    """Yield a line for each advisory of the database that names a locked version."""
    versions = {entry.name: entry.version for entry in entries}
    for file in sorted(database.rglob("*.json")):
        advisory = json.loads(file.read_text())
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", []):
            package = affected.get("package", {})
            name = normalized(str(package.get("name", "")))
            if package.get("ecosystem") == "PyPI" and versions.get(name) in affected.get(
                "versions", []
            ):
                summary = advisory.get("summary") or "no summary"
                yield f"{name} {versions[name]}: {advisory['id']} ({summary})"


def audit(database: Path) -> int:
    """Print the advisories against the locked versions; return the exit code."""
    entries = locked(ROOT / LOCK)
    if not database.is_dir() or not any(database.rglob("*.json")):
        print(  # noqa: T201
            f"There is no database of advisories at {database}: nothing was compared. Put OSV's "
            "files for PyPI there, or name their folder with ADVISORIES."
        )
        return 0
    found = list(findings(entries, database))
    for line in found:
        print(line)  # noqa: T201
    print(f"{len(entries)} packages compared, {len(found)} advisories.")  # noqa: T201
    return 1 if found else 0


def sbom(path: Path) -> dict[str, Any]:
    """Return a software bill of materials, CycloneDX 1.5, of a lock file."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": [
            {
                "type": "library",
                "name": entry.name,
                "version": entry.version,
                "purl": f"pkg:pypi/{entry.name}@{entry.version}",
                "hashes": [{"alg": "SHA-256", "content": one} for one in entry.hashes],
            }
            for entry in locked(path)
        ],
    }


def main(arguments: list[str]) -> int:
    if arguments == ["audit"]:
        return audit(Path(os.environ.get("ADVISORIES") or DEFAULT_DATABASE))
    if arguments == ["sbom"]:
        print(json.dumps(sbom(ROOT / "requirements.lock"), indent=2))  # noqa: T201
        return 0
    print("usage: python -m config.supply audit|sbom", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
