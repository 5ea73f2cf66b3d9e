"""Who may import whom (DESIGN.md section 3): no import may point towards an entry point."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APPS = ("webhooks", "projects", "sessions_app")

LEAVES = {
    "webhooks.addresses", "webhooks.catalog", "webhooks.choices", "webhooks.encryption",
    "webhooks.errors", "webhooks.event_data", "webhooks.event_reference", "webhooks.header_rules", "webhooks.ids",
    "webhooks.retry", "webhooks.signing", "webhooks.url_rules", "webhooks.breaker", "webhooks.rate",
}  # fmt: skip
"""Pure: no ORM beyond TextChoices, no I/O, and nothing of ours but one another."""

LAYERS = [
    LEAVES,
    {
        "webhooks.database",
        "webhooks.notes",
        "webhooks.postgres",
        "webhooks.process",
        "webhooks.epoch",
        "webhooks.horizon",
        "webhooks.wire",
        "webhooks.http_receiver",
        "webhooks.recorded",
    },
    {"webhooks.models"},
    {
        "webhooks.coalescing",
        "webhooks.journal",
        "webhooks.outbox",
        "webhooks.retirement",
        "webhooks.routing",
        "webhooks.testing",
        "webhooks.wakeup",
    },
    {
        "webhooks.audit_log", "webhooks.batch", "webhooks.chores", "webhooks.committer",
        "webhooks.lifecycle",
        "webhooks.redelivery", "webhooks.notices",
    },
    {"webhooks.dispatch"},
    {
        "webhooks.audit", "webhooks.feed", "webhooks.listening",
        "webhooks.retention", "webhooks.stats", "webhooks.trial", "webhooks.tryout",
    },
    {
        "webhooks.doctor", "webhooks.housekeeping", "webhooks.quarantine",
        "webhooks.reencryption", "webhooks.service",
    },
    {"webhooks.declared_jobs", "webhooks.sorting", "webhooks.startup"},
    {"webhooks.checks", "webhooks.jobs", "webhooks.worker", "webhooks.receivers"},
    {"webhooks.api", "webhooks.admin", "webhooks.management", "webhooks.apps"},
]  # fmt: skip
"""Lowest first; a module imports from its own layer or a lower one."""

ENTRIES = LAYERS[-2] | LAYERS[-1]
MAY_IMPORT_EACH_OTHER = {
    ("webhooks.jobs", "webhooks.worker"),
    ("webhooks.apps", "webhooks.checks"),
    ("webhooks.apps", "webhooks.receivers"),
}

PUBLIC = {
    "webhooks.service", "webhooks.catalog", "webhooks.models.tracking", "webhooks.api.base",
    "webhooks.testing", "webhooks.ids", "webhooks.admin.base",
}  # fmt: skip
"""All that other apps may import of this one."""


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        if "migrations" not in path.parts:
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file names, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            module = node.module or ""
            names = [_with_submodule(module, alias.name) for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in APPS)


def _with_submodule(module: str, name: str) -> str:
    base = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if base.is_dir() or base.with_suffix(".py").exists() else module


def layer_of(module: str) -> int:
    for level, members in enumerate(LAYERS):
        if any(module == member or module.startswith(f"{member}.") for member in members):
            return level
    pytest.fail(f"{module} has no layer; add it to LAYERS where it belongs.")


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_no_module_imports_from_a_higher_layer() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in modules("webhooks")
        if module != "webhooks"
        for imported in imports(path)
        if imported.startswith("webhooks.") and layer_of(imported) > layer_of(module)
    ]

    assert wrong == []


def test_entries_do_not_import_one_another() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in modules("webhooks")
        if room_of(module) in ENTRIES
        for imported in imports(path)
        if room_of(imported) in ENTRIES
        and room_of(imported) != room_of(module)
        and (room_of(module), room_of(imported)) not in MAY_IMPORT_EACH_OTHER
    ]

    assert wrong == []


def test_webhooks_knows_nothing_of_the_other_apps() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in modules("webhooks")
        for imported in imports(path)
        if not imported.startswith("webhooks")
    ]

    assert wrong == []


@pytest.mark.parametrize("app", ["projects", "sessions_app"])
def test_other_apps_import_only_what_is_public(app: str) -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in modules(app)
        if not module.endswith(".demo")  # it plays every part: operator, producer and receiver
        for imported in imports(path)
        if imported.startswith("webhooks.") and imported not in PUBLIC
    ]

    assert wrong == []


def test_only_the_wire_opens_sockets_to_receivers() -> None:
    wrong = [
        module
        for module, path in modules("webhooks")
        if room_of(module) not in {"webhooks.wire", "webhooks.http_receiver", "webhooks.recorded"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        and {alias.name for alias in node.names} & {"pycurl", "urllib3", "http.client"}
    ]

    assert wrong == []
