"""A table of texts: what every renderer takes. PURE"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GridCell:
    """``best`` and ``failed`` are for the renderer to show."""

    text: str
    best: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """``rows`` are as wide as ``headers``; the first ``label_columns`` name the row. Notes stand below."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[GridCell, ...], ...]
    label_columns: int
    notes: tuple[str, ...] = ()
    best_note: str = ""  # what ``best`` means here
