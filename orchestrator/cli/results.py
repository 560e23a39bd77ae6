"""``orchestrate results``, ``show`` and ``export``: what is kept, one run, a file for others."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents.contract.report import Cause, cause_words
from agents.places import data_root
from orchestrator.cli.home import run_named
from orchestrator.cli.view import Summary
from orchestrator.cli.words import first_line
from orchestrator.compare.defaults import default_pivot
from orchestrator.errors import UsageError
from orchestrator.report.pivot_grid import pivot_grid
from orchestrator.report.runs import SUMMARY_COLUMNS, runs_table
from orchestrator.report.runs import show_run as run_grid
from orchestrator.report.runs import summary_of as run_summary
from orchestrator.report.terminal import print_grid
from orchestrator.results import schema
from orchestrator.results.attempt_files import DamagedFileWarning
from orchestrator.results.export import export
from orchestrator.results.store import Store

SHOWN_FAILURES = 20


def summary_of(run: str, root: Path) -> Summary:
    """What is shown at a run's end: the default comparison, and what failed and why."""
    store = Store(root)
    if run not in store.runs():
        return Summary((), ())
    with damage_told():
        table = store.load(run)
    pivots = default_pivot(table)
    grids = (
        tuple(pivot_grid(each) for each in pivots)
        if any(each.col_axes for each in pivots)
        else (run_grid(table),)  # nothing to stand side by side: the metrics do
    )
    return Summary(grids, failures_of(table.to_pylist()))


def failures_of(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """A line for each distinct failure of a last attempt, with its count. PURE"""
    last: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["status"] != "ok" and row["attempt"] >= last.get(row["job_id"], row)["attempt"]:
            last[row["job_id"]] = row
    final = {row["job_id"]: max(row["attempt"], 0) for row in rows if row["status"] == "ok"}
    counts: dict[str, int] = {}
    for job_id, row in last.items():
        if row["attempt"] < final.get(job_id, 0):
            continue  # a later attempt was measured
        line = f"{_cell_words(row)}: {cause_words[Cause(row['cause'])]}: {first_line(row['detail'] or '')}"
        counts[line] = counts.get(line, 0) + 1
    lines = [f"{line}  (x{count})" if count > 1 else line for line, count in counts.items()]
    more = len(lines) - SHOWN_FAILURES
    return (*lines[:SHOWN_FAILURES], *([f"... and {more} more: orchestrate show"] if more > 0 else []))


def _cell_words(row: dict[str, Any]) -> str:
    parts = [row["model"], row["quantisation"], row["runtime"], row["workload"]]
    context = row["context_tokens"]
    parts.insert(3, f"ctx {context // 1024}K" if context and context % 1024 == 0 else context and f"ctx {context}")
    return " ".join(str(part) for part in parts if part)


def list_runs(*, as_json: bool) -> None:
    store = Store(data_root())
    with damage_told():
        summaries = [run_summary(run, store.read(run, columns=SUMMARY_COLUMNS).table) for run in store.runs()]
    summaries.sort(key=lambda each: (each.started_at is not None, each.started_at), reverse=True)
    if as_json:
        for each in summaries:
            started = each.started_at.isoformat() if each.started_at else None
            facts = {"run": each.run, "started_at": started, "statuses": dict(each.statuses)}
            print(json.dumps(facts | {"devices": each.devices, "models": each.models}))
        return
    print_grid(runs_table(summaries), sys.stdout)


def show_run(name: str, *, as_json: bool) -> None:
    root = data_root()
    run = run_named(name)
    with damage_told():
        table = Store(root).load(run)
    if as_json:
        from orchestrator.results.export import json_lines

        for line in json_lines(table):
            print(line)
        return
    print(f"run {run}: {root / 'runs' / run}")
    print_grid(run_grid(table), sys.stdout)
    failures = failures_of(table.to_pylist())
    if failures:
        print("\nwithout a figure:")
        for line in failures:
            print(f"  {line}")


def export_run(name: str, path: Path, *, table: str, file_format: str | None) -> None:
    if table not in schema.TABLES:
        raise UsageError(f"table {table!r}: allowed: {', '.join(schema.TABLES)}")
    run = run_named(name)
    with damage_told():
        found = Store(data_root()).load(run, table)
    written = export(found, path, file_format)
    print(f"{written}: {found.num_rows} rows of {table}")


@contextmanager
def damage_told() -> Iterator[None]:
    """A file of a run that cannot be read is told in a line on stderr, not as Python shows warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DamagedFileWarning)
        yield
    for each in caught:
        print(f"warning: {each.message}", file=sys.stderr)
