"""The table of ``docs/engines/README.md`` says of each engine what its adapter says."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.contract.engines import ENGINES
from agents.device_file import DeviceFile, EngineEntry
from agents.engines import engines_of
from agents.engines.base import Engine, Support
from agents.engines.llama.running import LlamaRunning
from orchestrator.matrix.axes import AXES

PAGE = Path(__file__).parents[3] / "docs/engines/README.md"
ABILITIES = {
    "text": "chat",
    "image in the prompt": "image",
    "token ids": "synthetic",
    "exact number of tokens": "exact_stop",
    "workflow": "workflow",
}
COLUMNS: dict[str, Engine] = {
    **{engine.name: engine for engine in engines_of(DeviceFile())},
    "running": LlamaRunning(EngineEntry(url="http://127.0.0.1:9")),
}
WORDS = {"sets": Support.SETS, "records": Support.RECORDS, "-": Support.CANNOT}


def table() -> dict[str, dict[str, str]]:
    """Row -> column -> the cell's first word."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| ---")
    ]
    head, *body = rows
    return {row[0].strip("`"): dict(zip(head[1:], (cell.split()[0] for cell in row[1:]), strict=True)) for row in body}


def test_it_has_each_engine_each_axis_and_each_ability() -> None:
    axes = [axis.name for axis in AXES if axis.part == "load" and axis.name != "engine"]
    assert set(table()) == {*axes, *ABILITIES}
    assert {tuple(cells) for cells in table().values()} == {tuple(table()["model"])}
    assert set(table()["model"]) == set(COLUMNS)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_agrees_with_its_adapter(column: str) -> None:
    support = COLUMNS[column].capabilities()
    axes = {axis.name: axis.columns for axis in AXES}
    for row, cells in table().items():
        for name in axes.get(row, (ABILITIES.get(row, ""),)):
            assert WORDS[cells[column]] is support.get(name, Support.CANNOT), f"{row} of {column}"


def test_each_engine_has_its_page() -> None:
    pages = {page.name: page.read_text("utf-8").splitlines()[0] for page in PAGE.parent.glob("*.md")}
    for facts in ENGINES:
        assert any(f"`{facts.name}`" in title for title in pages.values()), facts.name
