"""Pivots for other programs: one CSV line a place, values as the tables hold them. PURE, but ``print_pivots``"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import IO, Any

from orchestrator.compare.groups import TrialGroup
from orchestrator.compare.pivot import Pivot


def print_pivots(pivots: Sequence[Pivot], file: IO[str]) -> None:
    file.write(csv_lines(*pivots))


def csv_lines(*pivots: Pivot) -> str:
    """One table of all ``pivots``: the axes by their names in ``trials``, the figures, and the remarks about the group.

    ``flagged`` and ``failures`` read ``what:count``, parted by ``;``. A group that the table lacks has no line.
    """
    out = io.StringIO()
    axes = list(dict.fromkeys(axis for pivot in pivots for axis in (*pivot.row_axes, *pivot.col_axes)))
    writer = csv.writer(out, lineterminator="\n")
    figures = ["metric", "unit", "median", "low", "high", "n", "with_metric", "with", "ratio", "best", "only_flagged"]
    writer.writerow([*axes, *figures, "flagged", "failures", "silent", "notes"])
    for pivot in pivots:
        for row in pivot.row_keys:
            for col in pivot.col_keys:
                if (group := pivot.groups.get((row, col))) is not None:
                    given = dict(zip((*pivot.row_axes, *pivot.col_axes), (*row, *col), strict=True))
                    values = (*(given.get(axis) for axis in axes), *_figures(pivot, group), *_words(group))
                    writer.writerow([_plain(value) for value in values])
    return out.getvalue()


def _figures(pivot: Pivot, group: TrialGroup) -> tuple[Any, ...]:
    found = group.summary
    numbers = (found.median, found.low, found.high, found.n) if found else (None, None, None, 0)
    second = (pivot.second.name if pivot.second else None, group.second)
    return (pivot.metric.name, pivot.metric.unit, *numbers, *second, group.ratio, group.best, group.only_flagged)


def _words(group: TrialGroup) -> tuple[str, ...]:
    counted = (";".join(f"{what}:{count}" for what, count in pairs) for pairs in (group.flagged, group.failures))
    return (*counted, group.silent, "; ".join(group.notes))


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value
