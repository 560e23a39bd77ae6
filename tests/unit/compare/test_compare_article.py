"""The published figures give the article's first table, cell by cell."""

from __future__ import annotations

import pytest

from orchestrator.compare.defaults import default_pivot
from orchestrator.compare.pivot import Pivot, pivot
from orchestrator.report.markdown import markdown
from orchestrator.report.pivot_table import pivot_table
from orchestrator.results.reference import load_reference

COLUMNS = ("512 MiB vulkan", "512 MiB rocm", "32 GiB vulkan", "32 GiB rocm", "48 GiB vulkan")
GLM, QWEN = "glm-4.7-flash", "qwen3-vl-32b"
ESTIMATE, NOT = "estimate only", "not measured [4]"
TABLE = {
    (GLM, "Q4_K_M", "16K"): ("17.26 (6970)", "15.28 (5262) [1]", "42.89 (6107) [2]", "14.42 (6351)", ""),
    (GLM, "Q4_K_M", "64K"): (ESTIMATE, ESTIMATE, ESTIMATE, ESTIMATE, ESTIMATE),
    (GLM, "Q4_K_M", "198K"): ("does not load: RAM", "", "37.28 (7857)", "", ""),
    (GLM, "Q6_K", "16K"): ("", "", "25.51 (5717)", "13.79 (6419)", ""),
    (QWEN, "Q4_K_M", "16K"): ("3.74 (4059) [3]", "4.15 (3723) [3]", NOT, NOT, ""),
    (QWEN, "Q4_K_M", "24K"): ("3.51 (3676) [5]", "3.10 (3713) [3]", "", "", ""),
    (QWEN, "Q6_K", "-"): ("", "", "no figure [6]", "", "does not load: RAM"),
}
BEST = {(GLM, "Q4_K_M", "16K", 2), (GLM, "Q6_K", "16K", 2), (QWEN, "Q4_K_M", "16K", 1), (QWEN, "Q4_K_M", "24K", 0)}


@pytest.fixture(scope="module")
def first_table() -> Pivot:
    return pivot(
        load_reference("reference:aimax395-64g"),
        rows=["model", "quantisation", "context"],
        cols=["dedicated_vram", "runtime"],
        value="decode_tps",
        with_metric="completion_tokens",
    )


def test_every_cell_is_the_articles(first_table: Pivot) -> None:
    shown = pivot_table(first_table)
    assert shown.headers == ("model", "quantisation", "context", *COLUMNS)
    found = {tuple(cell.text for cell in row[:3]): tuple(cell.text for cell in row[3:]) for row in shown.rows}
    assert found == TABLE
    assert list(found) == list(TABLE)


def test_the_best_of_each_row_is_marked(first_table: Pivot) -> None:
    shown = pivot_table(first_table)
    marked = {
        (*(cell.text for cell in row[:3]), position)
        for row in shown.rows
        for position, cell in enumerate(row[3:])
        if cell.best
    }
    assert marked == BEST
    assert "higher is better" in shown.best_note and "spread is not known" in shown.best_note


def test_the_remarks_stand_below(first_table: Pivot) -> None:
    notes = pivot_table(first_table).notes
    assert "[1] a first token this early says that the prompt was cached" in notes
    assert "Published figures: not measured here, and by their tool's own definitions." in notes
    assert sum(note.startswith("[") for note in notes) == 6


def test_markdown_is_a_github_table(first_table: Pivot) -> None:
    lines = markdown(pivot_table(first_table)).splitlines()
    assert lines[2].split("|")[1].strip() == "model"
    assert set(lines[3]) == set("| -:")
    assert "**42.89 (6107) [2]**" in lines[4]
    assert all(line.count("|") == 9 for line in lines[2:11])


def test_without_asking_the_same_axes_are_chosen() -> None:
    decode, ttft = default_pivot(load_reference("aimax395-64g"))
    assert (decode.metric.name, ttft.metric.name) == ("decode_tps", "ttft_s")
    assert decode.row_axes == ("model", "quantisation", "context_tokens")
    assert decode.col_axes == ("dedicated_vram_bytes", "runtime")
    assert decode.second is not None and decode.second.name == "completion_tokens"
