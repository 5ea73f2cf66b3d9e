"""Errors are told apart by class, SQLSTATE or number, never by their text, which has a language."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("webhooks", "projects", "sessions_app", "config")


def handled_errors(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield each piece of code that has an error in hand, and what it calls the error there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name:
            yield node, node.name
        elif isinstance(node, ast.FunctionDef):
            for argument in node.args.args:
                annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                if annotation.endswith(("Error", "Exception")):
                    yield node, argument.arg


def is_text_of(node: ast.AST, name: str) -> bool:
    return any(
        isinstance(part, ast.Call)
        and ast.unparse(part) in (f"str({name})", f"repr({name})", f"format({name})")
        for part in ast.walk(node)
    )


def decisions_by_text(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that compare, search or match the text of an error."""
    for place, name in handled_errors(tree):
        for node in ast.walk(place):
            is_search = (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("startswith", "endswith", "find", "match", "search", "count")
            )
            is_decision = is_search or isinstance(node, ast.Compare)
            if is_decision and isinstance(node, ast.expr) and is_text_of(node, name):
                yield node.lineno


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_error_is_recognised_by_its_text(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in decisions_by_text(ast.parse(path.read_text()))
    ]

    assert found == []
