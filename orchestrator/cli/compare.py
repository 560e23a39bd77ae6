"""``orchestrate compare``: runs, exported files and published figures in pivot tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from agents.places import data_root
from orchestrator.cli.kept_run import (
    RunRows,
    ledger_rows,
    measured_run,
    raise_complaints,
    read_run,
    warn_of_unknown_runs,
)
from orchestrator.compare.axes import axis_named
from orchestrator.compare.defaults import default_pivot
from orchestrator.compare.pivot import Pivot, pivot
from orchestrator.report.formats import compare_format
from orchestrator.results.loading import load_runs
from orchestrator.results.store import Store


def compare_runs(
    runs: Sequence[str],
    rows: Sequence[str] | None,
    cols: Sequence[str] | None,
    values: Sequence[str] | None,
    *,
    also: str | None,
    where: Sequence[str],
    baseline: Sequence[str],
    output: str,
) -> None:
    print_pivots = compare_format(output)
    names = [measured_run(run) if _is_run(run) else run for run in runs]
    there = Store(data_root()).runs()
    read = [
        read_run(name) if name in there else RunRows(load_runs([name], data_root()), "")
        for name in dict.fromkeys(names)
    ]
    table = pa.concat_tables([each.table for each in read])
    print_pivots(_pivots(table, rows, cols, values, also=also, where=where, baseline=baseline), sys.stdout)
    warn_of_unknown_runs([name for name in names if name in there])
    raise_complaints([each.complaint for each in read])


def _pivots(
    table: pa.Table,
    rows: Sequence[str] | None,
    cols: Sequence[str] | None,
    values: Sequence[str] | None,
    *,
    also: str | None,
    where: Sequence[str],
    baseline: Sequence[str],
) -> Sequence[Pivot]:
    """One pivot a metric. The axes that are not named are chosen from what varies."""
    if not any((rows, cols, values, also, where, baseline)):
        return default_pivot(table)
    layout = default_pivot(table)[0]
    down, across = split(rows), split(cols)
    taken = {axis_named(name) for name in (*down, *across)}
    down = down or [axis for axis in layout.row_axes if axis not in taken]
    across = across or [axis for axis in layout.col_axes if axis not in taken]
    return [
        pivot(table, down, across, value, with_metric=also, where=where, baseline=baseline)
        for value in split(values) or [layout.metric.name]
    ]


def _is_run(name: str) -> bool:
    """A run's name, or a beginning of one; not a path, and no published figures."""
    runs = {*ledger_rows(), *Store(data_root()).runs()}
    return not Path(name).exists() and (name == "latest" or any(run.startswith(name) for run in runs))


def split(axes: Sequence[str] | None) -> list[str]:
    """``--rows model --rows context`` and ``--rows model,context`` are the same."""
    return [name.strip() for each in axes or () for name in each.split(",") if name.strip()]
