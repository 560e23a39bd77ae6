"""A pivot for other programs: one CSV line a cell, values as the tables hold them. PURE"""

from __future__ import annotations

import csv
import io
from typing import Any

from orchestrator.compare.cells import Cell
from orchestrator.compare.pivot import Pivot


def csv_cells(pivot: Pivot) -> str:
    """The axes by their names in ``trials``, the figures, and what is said of the cell.

    ``flagged`` and ``failures`` read ``what:count``, parted by ``;``. A cell that the table lacks has no line.
    """
    out = io.StringIO()
    second = [pivot.second.name] if pivot.second else []
    writer = csv.writer(out, lineterminator="\n")
    figures = ["metric", "unit", "median", "low", "high", "n", *second, "ratio", "best", "only_flagged"]
    writer.writerow([*pivot.row_axes, *pivot.col_axes, *figures, "flagged", "failures", "silent", "notes"])
    for row in pivot.row_keys:
        for col in pivot.col_keys:
            if (cell := pivot.cells.get((row, col))) is not None:
                writer.writerow([_plain(value) for value in (*row, *col, *_figures(pivot, cell), *_words(cell))])
    return out.getvalue()


def _figures(pivot: Pivot, cell: Cell) -> tuple[Any, ...]:
    found = cell.summary
    numbers = (found.median, found.low, found.high, found.n) if found else (None, None, None, 0)
    second = (cell.second,) if pivot.second else ()
    return (pivot.metric.name, pivot.metric.unit, *numbers, *second, cell.ratio, cell.best, cell.only_flagged)


def _words(cell: Cell) -> tuple[str, ...]:
    counted = (";".join(f"{what}:{count}" for what, count in pairs) for pairs in (cell.flagged, cell.failures))
    return (*counted, cell.silent, "; ".join(cell.notes))


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value
