"""Where the results of benchmarks are kept."""

import json
from typing import Any

from config.services import BASE_DIR

RESULTS = BASE_DIR / "var" / "bench.json"


def store(scenarios: dict[str, Any], machine: dict[str, Any], when: str) -> None:
    """Write the results of a run; scenarios that it did not measure keep their former ones."""
    former: dict[str, Any] = {}
    if RESULTS.exists():
        former = json.loads(RESULTS.read_text()).get("scenarios", {})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"when": when, "machine": machine, "scenarios": former | scenarios}, indent=2)
    )
