"""``pytest tests/unit`` is what one runs after each edit: it starts no Ray and makes no hosts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted([*TESTS.glob("*.py"), *(TESTS / "fakes").rglob("*.py"), *(TESTS / "unit").rglob("*.py")])
NOT_HERE = ("ray", "tests.ray", "tests.fleet", "orchestrator.dispatch.on_ray")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_it_imports_neither_ray_nor_hosts(file: Path) -> None:
    found = [
        name
        for name in imported(ast.parse(file.read_text("utf-8")))
        if any(name == each or name.startswith(f"{each}.") for each in NOT_HERE)
    ]
    assert found == []
