"""A grid as a GitHub table. PURE"""

from __future__ import annotations

import re

from orchestrator.report.text_table import Grid, GridCell


def markdown(grid: Grid) -> str:
    """Title, table, notes as a list; the best in bold. Ends with a newline."""
    widths = [
        max(3, *(len(_said(row[position])) for row in grid.rows), len(_escaped(head)))
        if grid.rows
        else max(3, len(_escaped(head)))
        for position, head in enumerate(grid.headers)
    ]
    lines = [_escaped(grid.title), "", _line([_escaped(head) for head in grid.headers], widths, grid.label_columns)]
    rules = [
        "-" * width if position < grid.label_columns else "-" * (width - 1) + ":"
        for position, width in enumerate(widths)
    ]
    lines.append(_line(rules, widths, grid.label_columns))
    lines += [_line([_said(cell) for cell in row], widths, grid.label_columns) for row in grid.rows]
    notes = (*((f"Bold: {grid.best_note}",) if grid.best_note else ()), *grid.notes)
    if notes:
        lines += ["", *(f"- {_escaped(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def _line(texts: list[str], widths: list[int], labels: int) -> str:
    padded = (
        text.ljust(width) if position < labels else text.rjust(width)
        for position, (text, width) in enumerate(zip(texts, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def _said(cell: GridCell) -> str:
    return f"**{_escaped(cell.text)}**" if cell.best else _escaped(cell.text)


def _escaped(text: str) -> str:
    """Text that GitHub shows as it is written. An underscore inside a word means nothing to it."""
    flat = " ".join(text.split())
    flat = re.sub(r"([\\|*`<>&~])", r"\\\1", flat)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])|\[(?=[^]]*\]\()", r"\\\g<0>", flat)
