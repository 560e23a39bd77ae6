"""A table for a terminal: as wide as it is; plain ASCII, and never cut, where the output is not one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO

from orchestrator.compare.pivot import Pivot
from orchestrator.report.pivot_table import pivot_table
from orchestrator.report.text_table import TableCell, TextTable


def print_table(table: TextTable, file: IO[str]) -> None:
    """``table`` to ``file``, in colour and fitted to the width where that is a terminal."""
    if not file.isatty():
        file.write(plain(table))
        return
    from rich.console import Console

    console = Console(file=file, highlight=False)
    console.print(table.title, markup=False)
    for part in fitted(table, console.width):
        console.print(_rich_table(part), markup=False)
    for note in notes_of(table):
        console.print(note, style="dim", markup=False)


def print_pivots(pivots: Sequence[Pivot], file: IO[str]) -> None:
    for pivot in pivots:
        print_table(pivot_table(pivot), file)
        file.write("\n")


def plain(table: TextTable) -> str:
    """Aligned columns without colour, as wide as they must be. Ends with a newline."""
    widths = column_widths(table)
    rows = [
        table.headers,
        tuple("-" * width for width in widths),
        *(tuple(marked_text(cell) for cell in row) for row in table.rows),
    ]
    lines = [table.title, ""]
    for row in rows:
        padded = (
            text.ljust(width) if position < table.label_columns else text.rjust(width)
            for position, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    if notes := notes_of(table):
        lines += ["", *notes]
    return "\n".join(lines) + "\n"


def marked_text(cell: TableCell) -> str:
    return f"{cell.text} *" if cell.best else cell.text


def notes_of(table: TextTable) -> tuple[str, ...]:
    return (*((f"*: {table.best_note}",) if table.best_note else ()), *table.notes)


def column_widths(table: TextTable) -> list[int]:
    return [
        max([len(head), *(len(marked_text(row[position])) for row in table.rows)])
        for position, head in enumerate(table.headers)
    ]


def fitted(table: TextTable, width: int) -> Iterable[TextTable]:
    """The table in as many parts as fit side by side into ``width``, each with the columns that name the row."""
    widths = [each + 2 for each in column_widths(table)]
    labels = list(range(table.label_columns))
    part: list[int] = []
    for position in range(table.label_columns, len(table.headers)):
        if part and sum(widths[each] for each in (*labels, *part, position)) > width:
            yield _columns(table, [*labels, *part])
            part = []
        part.append(position)
    yield _columns(table, [*labels, *part])


def _columns(table: TextTable, positions: Sequence[int]) -> TextTable:
    def pick(row: Sequence[TableCell]) -> tuple[TableCell, ...]:
        return tuple(row[position] for position in positions)

    headers = tuple(table.headers[position] for position in positions)
    return TextTable(table.title, headers, tuple(pick(row) for row in table.rows), table.label_columns)


def _rich_table(shown: TextTable) -> object:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for position, head in enumerate(shown.headers):
        table.add_column(Text(head), justify="left" if position < shown.label_columns else "right", overflow="fold")
    for row in shown.rows:
        table.add_row(
            *(Text(marked_text(cell), "bold green" if cell.best else "red" if cell.failed else "") for cell in row)
        )
    return table
