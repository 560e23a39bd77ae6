"""The drift of each device, by its canaries, as a grid. PURE"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.compare.drift import DRIFTED, Drift
from orchestrator.report.text_table import Grid, GridCell


def drift_grid(drifts: Sequence[Drift]) -> Grid:
    """A line for each device and state; those that drifted are marked."""
    rows = []
    for each in drifts:
        texts = (
            each.device,
            each.state,
            str(each.n),
            f"{each.hours:.1f}",
            f"{each.first_tps:.2f}",
            f"{each.last_tps:.2f}",
            f"{each.share:+.1%}",
            f"{each.least_tps:.2f} to {each.most_tps:.2f}",
        )
        rows.append(tuple(GridCell(text, failed=each.drifted) for text in texts))
    headers = ("device", "state", "n", "hours", "first, tokens/s", "last", "drift", "range")
    note = f"Marked: a range of {DRIFTED:.0%} or more. Do not compare figures far apart in time as they are."
    title = "Canary: one fixed short cell before, between and after the others; its decode rate."
    return Grid(title, headers, tuple(rows), 2, (note,) if any(each.drifted for each in drifts) else ())
