"""Apply each sabotage to a copy of the code, and print which check catches it.

Exit status 1 when one survives, or is caught by another check than it names, or when chaos complains of
the code as it is; what was printed stands in var/mutants/NAME.log.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from config.services import BASE_DIR
from tests.chaos.mutants import Mutant, all_mutants

CHAOS = ["-m", "tests.chaos", "--seed", "1", "--minutes", "0.5", "--json", "verdict.json"]
PYTEST = ["-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
LONGEST_SECONDS = 600
"""A run that takes longer has caught nothing."""


def main() -> None:
    wanted = sys.argv[1:]
    mutants = [mutant for mutant in all_mutants() if not wanted or mutant.name in wanted]
    if len(mutants) < len(wanted):
        sys.exit(f"Known are {', '.join(mutant.name for mutant in all_mutants())}.")
    print(
        "| sabotage | what it spoils | with | caught by | seconds |\n| --- | --- | --- | --- | ---: |"
    )
    if any(mutant.run[0] == "chaos" for mutant in mutants):
        _check_that_chaos_is_content()
    survivors = [mutant.name for mutant in mutants if not _is_caught(mutant)]
    print(f"\n{len(mutants) - len(survivors)} of {len(mutants)} caught.")
    if survivors:
        sys.exit(f"Not caught as they should be: {', '.join(survivors)}")


def _check_that_chaos_is_content() -> None:
    """What it says of a sabotage means nothing where it says as much without."""
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        copy_code(Path(folder))
        if complaints := _found("unspoiled", ["chaos"], Path(folder)):
            sys.exit(f"Chaos complains without any sabotage: {', '.join(complaints)}")


def _is_caught(mutant: Mutant) -> bool:
    """Run what is to notice a sabotage, print a row, and say whether it did."""
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        copy_code(Path(folder))
        apply(mutant, Path(folder))
        caught_by = _found(mutant.name, mutant.run, Path(folder))
    seconds = time.monotonic() - began_at
    with_what = " ".join(mutant.run)
    names = ", ".join(caught_by) or "nothing"
    print(
        f"| {mutant.name} | {mutant.spoils} | `{with_what}` | {names} | {seconds:.0f} |", flush=True
    )
    return not mutant.caught_by.isdisjoint(caught_by)


def copy_code(folder: Path) -> None:
    """Copy what is under version control, as it stands, and what is new."""
    folder.chmod(0o755)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=BASE_DIR, check=True, capture_output=True).stdout
    for name in files.decode().split("\0"):
        source, target = BASE_DIR / name, folder / name
        if name and source.is_file() and not source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    (folder / "var").mkdir(exist_ok=True)


def apply(mutant: Mutant, folder: Path) -> None:
    """Raises CalledProcessError where the code has changed too much for the patch."""
    with mutant.path.open("rb") as patch:
        command = ["patch", "--strip=1", "--quiet", "--no-backup-if-mismatch", "--force"]
        subprocess.run(command, cwd=folder, stdin=patch, check=True)


def _found(name: str, run: Sequence[str], folder: Path) -> list[str]:
    """Return the broken promises, or the tests that failed."""
    what, *arguments = run
    program = CHAOS if what == "chaos" else PYTEST
    output = _output([sys.executable, *program, *arguments], folder)
    log = BASE_DIR / "var" / "mutants" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(output)
    report = folder / "verdict.json"
    if what == "chaos":
        return list(json.loads(report.read_text())["broken"]) if report.exists() else ["no verdict"]
    names = (
        line.split("::")[1].split()[0].split("[")[0]
        for line in output.splitlines()
        if line.startswith("FAILED") and "::" in line
    )
    return list(dict.fromkeys(names))


def _output(command: list[str], folder: Path) -> str:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            timeout=LONGEST_SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired:
        return ""


if __name__ == "__main__":
    main()
