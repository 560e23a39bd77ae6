"""What stands in one cell of a comparison. PURE"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agents.contract.report import CAUSES, Cause
from orchestrator.compare.trials import SILENT, Row

IQR_FROM = 5
"""Trials from which the spread is the interquartile range; with fewer it is the smallest to the largest."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Of ``n`` trials. ``low`` and ``high``: quartiles for ``n >= IQR_FROM``, else the extremes."""

    n: int
    median: float
    low: float
    high: float


def summarise(values: Sequence[float]) -> Summary:
    """``values`` is not empty. Quartiles by linear interpolation between the sorted values (type 7 of Hyndman, Fan)."""
    if len(values) < IQR_FROM:
        return Summary(len(values), statistics.median(values), min(values), max(values))
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(len(values), median, low, high)


@dataclass(frozen=True, slots=True)
class TrialGroup:
    """``only_flagged``: every trial with a figure is flagged; it is shown, and takes no part in best and ratio.

    ``flagged`` counts trials by flag, ``failures`` jobs by what people read; ``silent`` says why a cell without
    either has no figure. ``ratio``: median / the baseline's. ``close``: another's spread meets that of the best.
    """

    summary: Summary | None = None
    second: float | None = None
    only_flagged: bool = False
    flagged: tuple[tuple[str, int], ...] = ()
    failures: tuple[tuple[str, int], ...] = ()
    silent: str = ""
    notes: tuple[str, ...] = ()
    ratio: float | None = None
    best: bool = False
    close: bool = False

    @property
    def comparable(self) -> Summary | None:
        return None if self.only_flagged else self.summary


def describe_failure(row: Row) -> str:
    cause = row["cause"]
    try:
        return CAUSES[Cause(cause)].description
    except ValueError:
        return str(cause or row["status"])


def summarise_group(rows: Sequence[Row], metric: str, second: str | None) -> TrialGroup:
    """Rows of one cell; flagged trials are left out of the figures unless there are no others."""
    failed = Counter(describe_failure(row) for row in rows if row["status"] in ("failed", "refused"))
    figures = [row for row in rows if row["status"] in ("ok", *SILENT) and row[metric] is not None]
    sound = [row for row in figures if not row["flags"]]
    used = sound or figures
    seconds = [row[second] for row in used if row[second] is not None] if second else []
    return TrialGroup(
        summary=summarise([row[metric] for row in used]) if used else None,
        second=statistics.median(seconds) if seconds else None,
        only_flagged=bool(figures) and not sound,
        flagged=tuple(sorted(Counter(flag for row in figures for flag in row["flags"] or ()).items())),
        failures=tuple(sorted(failed.items())),
        silent="" if used or failed else _silent(rows),
        notes=tuple(dict.fromkeys(row["note"] for row in rows if row["note"])),
    )


def _silent(rows: Sequence[Row]) -> str:
    statuses = {row["status"] for row in rows}
    for status in ("ok", *SILENT):
        if status in statuses:
            return "no figure" if status == "ok" else status.replace("_", " ")
    return ""
