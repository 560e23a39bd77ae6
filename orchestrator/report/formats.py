"""The formats of ``orchestrate compare``, one line each.

A new one is a file in this folder with a function that prints pivots, and its line here: ``--format`` takes it, and its
message about an unknown format names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO

from orchestrator.compare.pivot import Pivot
from orchestrator.errors import UsageError
from orchestrator.report import csv_lines, markdown, terminal

PrintPivots = Callable[[Sequence[Pivot], IO[str]], None]

COMPARE_FORMATS: tuple[tuple[str, PrintPivots], ...] = (
    ("terminal", terminal.print_pivots),
    ("markdown", markdown.print_pivots),
    ("csv", csv_lines.print_pivots),
)


def compare_format(name: str) -> PrintPivots:
    """Raises UsageError for an unknown one, and names those that there are."""
    by_name = dict(COMPARE_FORMATS)
    if name not in by_name:
        raise UsageError(f"--format {name!r}: allowed: {', '.join(by_name)}")
    return by_name[name]
