"""A table of texts, which every output format takes, and figures as the texts in it. PURE"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.compare.axes import Metric


@dataclass(frozen=True, slots=True)
class TableCell:
    """``best`` and ``failed`` are for the renderer to show."""

    text: str
    best: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class TextTable:
    """``rows`` are as wide as ``headers``; the first ``label_columns`` name the row. Notes stand below."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    label_columns: int
    notes: tuple[str, ...] = ()
    best_note: str = ""  # what ``best`` means here


def format_figure(metric: Metric, value: float) -> str:
    """``17.26`` tokens/s, ``4.4`` s/image, ``0.04`` or ``0.0123`` s, ``20.8`` GiB, ``6970`` tokens; the title names
    the unit.

    Rates, times and energies for one: two decimals, more where the first three digits that count stand further back.
    """
    if metric.unit == "bytes":
        return f"{value / (1 << 30):.2f}".rstrip("0").rstrip(".")
    if metric.unit in ("s", "tokens/s", "iterations/s", "s/image", "J/token", "tokens/J", "J/image"):
        if value == 0 or not math.isfinite(value):
            return f"{value:g}"
        digits = max(2, 2 - math.floor(math.log10(abs(value))))
        whole, _, decimals = f"{value:.{digits}f}".partition(".")
        return f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def format_unit(metric: Metric) -> str:
    return "GiB" if metric.unit == "bytes" else metric.unit
