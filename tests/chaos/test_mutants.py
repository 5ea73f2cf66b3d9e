"""The sabotages that `make mutants` tries still fit the code."""

from pathlib import Path

import pytest

from tests.chaos.mutants import Mutant, all_mutants
from tests.chaos.mutants.__main__ import apply, copy_code


@pytest.fixture(autouse=True)
def alone_at_the_end() -> None:
    """No worker runs here."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    copy_code(folder)
    return folder


@pytest.mark.parametrize("mutant", all_mutants(), ids=lambda mutant: mutant.name)
def test_sabotage_applies_and_is_python(mutant: Mutant, copy: Path, tmp_path: Path) -> None:
    text = mutant.path.read_text()
    names = [line.split("b/", 1)[1] for line in text.splitlines() if line.startswith("+++ b/")]
    for name in names:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((copy / name).read_text())

    apply(mutant, tmp_path)

    for name in names:
        spoiled = (tmp_path / name).read_text()
        assert spoiled != (copy / name).read_text()
        compile(spoiled, name, "exec")
