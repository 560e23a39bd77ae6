"""The comparison that is shown when nobody asked for one. PURE"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from orchestrator.compare import axes
from orchestrator.compare.pivot import Pivot, pivot
from orchestrator.compare.trials import SILENT, Row, choose_trials, values_of, varying

MOST_COLUMNS = 6
METRICS = ("decode_tps", "prompt_tps", "ttft_s", "seconds_per_image", "iteration_rate")
_ACROSS = ("dedicated_vram_bytes", "runtime", "power_limit_w", "power_profile", "kv_type", "device", "engine")
"""What is most often compared side by side: these become columns before the others, in this order."""
_DOWN = ("run", "model", "workload")
"""Never columns here: a best of two models, or of two workloads, says nothing."""


def default_pivot(table: pa.Table) -> tuple[Pivot, ...]:
    """One pivot a metric that the workloads brought: decode rate, prompt rate, time to first token, those of images.

    Of the axes that vary, those of ``_ACROSS`` become columns (where none of them varies, those with the fewest
    values), as long as there are at most ``MOST_COLUMNS``; others are rows. A workload without a metric (``pp512``
    has no decode rate) is left out of that metric's pivot; one that always failed stands in the first.
    """
    rows = choose_trials(table, METRICS).rows
    down, across = _layout(rows)
    held = {metric: _workloads_with(rows, metric) for metric in METRICS}
    shown = [metric for metric in METRICS if held[metric]] or [METRICS[0]]
    nowhere = {row["workload"] for row in rows} - set[str]().union(*held.values())
    held[shown[0]] |= nowhere
    pivots = []
    for metric in shown:
        kept = [name in held[metric] for name in table.column("workload").to_pylist()] if table.num_rows else []
        some = table.filter(pa.array(kept, pa.bool_()))
        baseline = _first_column(some, across)
        pivots.append(pivot(some, down, across, metric, with_metric=_beside(rows, metric), baseline=baseline))
    return tuple(pivots)


def _first_column(table: pa.Table, across: Sequence[str]) -> tuple[str, ...]:
    """What the other columns are compared with, as ``AXIS=VALUE``: nothing unless one axis alone goes across."""
    if len(across) != 1:
        return ()
    (axis,) = across
    there = [value for value in values_of(choose_trials(table, METRICS).rows, axis) if value is not None]
    first = min(there, key=lambda value: axes.sort_key(axis, value), default=None)
    return () if first is None or len(there) < 2 else (f"{axis}={axes.label(axis, first)}",)


def _workloads_with(rows: Sequence[Row], metric: str) -> set[str]:
    return {row["workload"] for row in rows if row[metric] is not None and not (metric == "prompt_tps" and _empty(row))}


def _empty(row: Row) -> bool:
    """``tg128`` begins with one token in an empty context: the rate of that prompt says nothing."""
    return row["prompt_tokens_asked"] == 0 and not row["depth"]


def _beside(rows: Sequence[Row], metric: str) -> str | None:
    """A decode rate of a natural stop is shown with its length: it falls as the context fills."""
    natural = any(row["stop"] != "exact" for row in rows if row[metric] is not None)
    return "completion_tokens" if metric == "decode_tps" and natural else None


def _layout(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Row axes and column axes, from what varies."""
    rows = [row for row in rows if row["status"] not in SILENT]
    found = independent(rows)
    ranked = list(dict.fromkeys((*_ACROSS, *axes.AXES)))
    free = [axis for axis in found if axis not in _DOWN]
    across: list[str] = []
    columns = 1
    side_by_side = [axis for axis in free if axis in _ACROSS] or free
    for axis in sorted(side_by_side, key=lambda name: (len(values_of(rows, name)), ranked.index(name))):
        columns *= len(values_of(rows, axis))
        if columns > MOST_COLUMNS or len(across) == len(found) - 1:
            break
        across.append(axis)
    down = [axis for axis in found if axis not in across]
    return (down or ["model"]), sorted(across, key=ranked.index)


def independent(rows: Sequence[Row]) -> list[str]:
    """Axes that vary and do not merely follow those found before: a workload's length follows its name."""
    kept: list[str] = []
    for axis in varying(rows, [name for name in axes.AXES if name not in axes.FOUND]):
        seen: dict[tuple[object, ...], object] = {}
        if any(seen.setdefault(tuple(row[name] for name in kept), row[axis]) != row[axis] for row in rows):
            kept.append(axis)
    return kept
