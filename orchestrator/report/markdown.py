"""A table as a GitHub table. PURE"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import IO

from orchestrator.compare.pivot import Pivot
from orchestrator.report.pivot_table import pivot_table
from orchestrator.report.text_table import TableCell, TextTable


def markdown(table: TextTable) -> str:
    """Title, table, notes as a list; the best in bold. Ends with a newline."""
    widths = [
        max(3, *(len(_emphasised(row[position])) for row in table.rows), len(_escaped(head)))
        if table.rows
        else max(3, len(_escaped(head)))
        for position, head in enumerate(table.headers)
    ]
    lines = [_escaped(table.title), "", _line([_escaped(head) for head in table.headers], widths, table.label_columns)]
    rules = [
        "-" * width if position < table.label_columns else "-" * (width - 1) + ":"
        for position, width in enumerate(widths)
    ]
    lines.append(_line(rules, widths, table.label_columns))
    lines += [_line([_emphasised(cell) for cell in row], widths, table.label_columns) for row in table.rows]
    notes = (*((f"Bold: {table.best_note}",) if table.best_note else ()), *table.notes)
    if notes:
        lines += ["", *(f"- {_escaped(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def print_pivots(pivots: Sequence[Pivot], file: IO[str]) -> None:
    for pivot in pivots:
        file.write(markdown(pivot_table(pivot)) + "\n")


def _line(texts: list[str], widths: list[int], labels: int) -> str:
    padded = (
        text.ljust(width) if position < labels else text.rjust(width)
        for position, (text, width) in enumerate(zip(texts, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def _emphasised(cell: TableCell) -> str:
    return f"**{_escaped(cell.text)}**" if cell.best else _escaped(cell.text)


def _escaped(text: str) -> str:
    """Text that GitHub shows as it is written. An underscore inside a word means nothing to it."""
    flat = " ".join(text.split())
    flat = re.sub(r"([\\|*`<>&~])", r"\\\1", flat)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])|\[(?=[^]]*\]\()", r"\\\g<0>", flat)
