"""Documents can be read in a terminal, and what they name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
)
LINE, CELL = 120, 140
FIGURES_IN_A_CELL = 9
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FIGURE = re.compile(r"(?<![\w.,])\d[\d.,]*")
FOLDERS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
# Files and folders that stand on a device, with a run or in another project, but begin as one of ours does.
ELSEWHERE = ("runs/", "tls/")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_outside_code(page: Path) -> Iterator[tuple[int, str]]:
    in_code = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield number, line


def is_row(line: str) -> bool:
    return line.lstrip().startswith("|")


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_lines_are_short(page: Path) -> None:
    long = [number for number, line in lines_outside_code(page) if not is_row(line) and len(line) > LINE]
    assert long == [], f"lines of more than {LINE} characters"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_cells_of_tables_are_short_and_no_heaps_of_figures(page: Path) -> None:
    """A row cannot be broken, so its cells are held. What needs more words is a list, not a table."""
    for number, line in lines_outside_code(page):
        for cell in line.split(" | ") if is_row(line) else []:
            assert len(cell.strip(" |")) <= CELL, f"line {number}: a cell of more than {CELL} characters: {cell}"
            assert len(FIGURE.findall(cell)) <= FIGURES_IN_A_CELL, f"line {number}: too many figures: {cell}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for number, line in lines_outside_code(page):
        for link in LINK.findall(line):
            path, _, _ = link.partition("#")
            if path and ":" not in path:
                assert (page.parent / path).exists(), f"line {number}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_and_folders_that_are_named_are_there(page: Path) -> None:
    """`agents/agent/agent.py`: from the root, the page's folder, below a package or the page's own package."""
    places = (ROOT, page.parent, ROOT / "agents", ROOT / "agents" / page.stem, ROOT / "orchestrator")
    for number, line in lines_outside_code(page):
        for name in CODE.findall(line):
            if is_path(name):
                assert any((place / name).exists() for place in places), f"line {number}: {name}"


def is_path(name: str) -> bool:
    """Whether words in code are a file of ours, or a folder: only such as could be in this repository."""
    if not re.fullmatch(r"[\w./-]+", name) or name.startswith(("/", "-", *ELSEWHERE)):
        return False
    return ("/" in name and name.endswith(".py")) or name.startswith(FOLDERS)
