"""A grid for a terminal: as wide as it is; plain ASCII, and never cut, where the output is not one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO

from orchestrator.report.text_table import Grid, GridCell


def print_grid(grid: Grid, file: IO[str]) -> None:
    """``grid`` to ``file``, in colour and fitted to the width where that is a terminal."""
    if not file.isatty():
        file.write(plain(grid))
        return
    from rich.console import Console

    console = Console(file=file, highlight=False)
    console.print(grid.title, markup=False)
    for part in fitted(grid, console.width):
        console.print(_rich_table(part), markup=False)
    for note in notes_of(grid):
        console.print(note, style="dim", markup=False)


def plain(grid: Grid) -> str:
    """Aligned columns without colour, as wide as they must be. Ends with a newline."""
    widths = column_widths(grid)
    rows = [
        grid.headers,
        tuple("-" * width for width in widths),
        *(tuple(said(cell) for cell in row) for row in grid.rows),
    ]
    lines = [grid.title, ""]
    for row in rows:
        padded = (
            text.ljust(width) if position < grid.label_columns else text.rjust(width)
            for position, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    if notes := notes_of(grid):
        lines += ["", *notes]
    return "\n".join(lines) + "\n"


def said(cell: GridCell) -> str:
    return f"{cell.text} *" if cell.best else cell.text


def notes_of(grid: Grid) -> tuple[str, ...]:
    return (*((f"*: {grid.best_note}",) if grid.best_note else ()), *grid.notes)


def column_widths(grid: Grid) -> list[int]:
    return [
        max([len(head), *(len(said(row[position])) for row in grid.rows)]) for position, head in enumerate(grid.headers)
    ]


def fitted(grid: Grid, width: int) -> Iterable[Grid]:
    """The grid in as many parts as fit side by side into ``width``, each with the columns that name the row."""
    widths = [each + 2 for each in column_widths(grid)]
    labels = list(range(grid.label_columns))
    part: list[int] = []
    for position in range(grid.label_columns, len(grid.headers)):
        if part and sum(widths[each] for each in (*labels, *part, position)) > width:
            yield _columns(grid, [*labels, *part])
            part = []
        part.append(position)
    yield _columns(grid, [*labels, *part])


def _columns(grid: Grid, positions: Sequence[int]) -> Grid:
    def pick(row: Sequence[GridCell]) -> tuple[GridCell, ...]:
        return tuple(row[position] for position in positions)

    headers = tuple(grid.headers[position] for position in positions)
    return Grid(grid.title, headers, tuple(pick(row) for row in grid.rows), grid.label_columns)


def _rich_table(grid: Grid) -> object:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for position, head in enumerate(grid.headers):
        table.add_column(Text(head), justify="left" if position < grid.label_columns else "right", overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(said(cell), "bold green" if cell.best else "red" if cell.failed else "") for cell in row))
    return table
