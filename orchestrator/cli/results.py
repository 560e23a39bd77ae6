"""``orchestrate results`` and ``show``: what is kept, one run."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.contract.report import CAUSES, Cause
from agents.places import data_root
from orchestrator.cli.ledger_access import no_coordinator_runs, open_ledger, pick_run, runs_of_ledger
from orchestrator.cli.texts import first_line, format_count
from orchestrator.cli.view import RunDigest
from orchestrator.compare.axes import axis_named, label
from orchestrator.compare.defaults import default_pivot
from orchestrator.compare.drift import drifts_of
from orchestrator.dispatch.ledger import Ledger
from orchestrator.errors import UsageError
from orchestrator.matrix import Value, matrix_from_json
from orchestrator.report.pivot_table import pivot_table
from orchestrator.report.runs import SUMMARY_COLUMNS, RunSummary, drift_table, run_table, runs_table, summarise_run
from orchestrator.report.terminal import print_table
from orchestrator.results.attempt_files import DamagedFileWarning
from orchestrator.results.export import json_lines
from orchestrator.results.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_FAILURES = 20


def run_digest(run: str, root: Path) -> RunDigest:
    """What is shown at a run's end: the default comparison, and what failed and why."""
    store = Store(root)
    if run not in store.runs():
        return RunDigest((), ())
    with damage_reported():
        table = store.load(run)
    return digest_of_trials(table, pending_axes(run))


def digest_of_trials(table: pa.Table, also: Sequence[str] = ()) -> RunDigest:
    """``also``: axes that vary in cells which are still pending."""
    pivots = default_pivot(table)
    side_by_side = any(each.col_axes for each in pivots) and not also
    tables = tuple(pivot_table(each) for each in pivots) if side_by_side else (run_table(table, also),)
    return RunDigest(tables, failures_of(table.to_pylist()))


def pending_axes(run: str) -> tuple[str, ...]:
    """The axes that vary in the matrix of a run that is not complete: what is done yet may not show them."""
    with open_ledger() as ledger:
        if ledger is None or not jobs_remaining(ledger, run)[0]:
            return ()
        matrix = matrix_from_json(ledger.matrix(run))
    seen: dict[str, set[Value]] = {}
    for grid in matrix.grids:
        for dim in grid.dims:
            for place, name in enumerate(dim.names):
                seen.setdefault(name, set()).update(option[place] for option in dim.options)
    return tuple(axis_named(name) for name, values in seen.items() if len(values) > 1)


def jobs_remaining(ledger: Ledger | None, run: str) -> tuple[int, int]:
    """Jobs of ``run`` that are not done, and all of them; (0, 0) where the ledger does not know it."""
    rows = ledger.runs() if ledger else []
    return next(((row.jobs - row.done, row.jobs) for row in rows if row.id == run), (0, 0))


def failures_of(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """A line for each distinct failure of a last attempt, with its count. PURE"""
    last: dict[str, int] = {}
    for row in rows:
        last[row["job_id"]] = max(row["attempt"], last.get(row["job_id"], 0))
    ends = [row for row in rows if row["status"] != "ok" and row["attempt"] == last[row["job_id"]]]
    counts = Counter(
        f"{_describe_cell(row)}: {CAUSES[Cause(row['cause'])].description}: {first_line(row['detail'] or '')}"
        for row in ends
    )
    lines = [f"{line}  (x{count})" if count > 1 else line for line, count in counts.items()]
    more = len(lines) - SHOWN_FAILURES
    return (*lines[:SHOWN_FAILURES], *([f"... and {more} more: orchestrate show"] if more > 0 else []))


def _describe_cell(row: dict[str, Any]) -> str:
    parts = [row["engine"], row["model"], row["quantisation"], row["runtime"], row["workload"]]
    shown = (
        *(("context_tokens", "ctx"), ("kv_type_k", "kv"), ("dedicated_vram_bytes", "vram")),
        *(("power_limit_w", ""), ("power_profile", "profile")),
    )
    parts[4:4] = [f"{word} {label(name, row[name])}".strip() for name, word in shown if row[name] is not None]
    return " ".join(str(part) for part in parts if part)


def list_runs(*, as_json: bool) -> None:
    store = Store(data_root())
    with open_ledger() as ledger:
        runs = {row.id: row for row in (ledger.runs() if ledger else ())}
    summaries = []
    with damage_reported():
        for run in dict.fromkeys((*runs, *reversed(store.runs()))):  # the newest first, as the ledger has them
            table = store.read(run, columns=SUMMARY_COLUMNS).table if run in store.runs() else None
            found = summarise_run(run, table) if table else RunSummary(run, None, None, (), (), ())
            row = runs.get(run)
            summaries.append(replace(found, remaining=row.jobs - row.done) if row else found)
    if not as_json:
        print_table(runs_table(summaries), sys.stdout)
        return
    for each in summaries:
        started = each.started_at.isoformat() if each.started_at else None
        facts = {"run": each.run, "origins": each.origins, "started_at": started, "statuses": dict(each.statuses)}
        work = {"left": each.remaining, "complete": not each.remaining, "devices": each.devices, "models": each.models}
        print(json.dumps(facts | work))


def measured_run(name: str) -> str:
    """``find_run``, of a run that holds at least one result; imported ones too. Raises UsageError."""
    there = Store(data_root()).runs()
    ledger = runs_of_ledger()
    imported = [] if name == "latest" else [run for run in there if run not in ledger]
    run = pick_run(name, [*ledger, *imported])
    if run not in there:
        raise UsageError(f"run {run}: nothing is measured yet; go on with: orchestrate resume {run}")
    return run


def show_run(name: str, *, as_json: bool) -> None:
    root = data_root()
    run = measured_run(name)
    with damage_reported():
        table = Store(root).load(run)
    if as_json:
        for line in json_lines(table):
            sys.stdout.write(line)
        return
    with open_ledger() as ledger:
        remaining, jobs = jobs_remaining(ledger, run)
    print(f"run {run}: {root / 'runs' / run}")
    if remaining:
        with no_coordinator_runs() as free:
            then = f"go on with: orchestrate resume {run}" if free else "a submit on this machine is at work"
        print(f"not complete: {remaining} of {format_count(jobs, 'job')} left; {then}")
    print_table(run_table(table, pending_axes(run)), sys.stdout)
    rows = table.to_pylist()
    if drifts := drifts_of(rows):
        print()
        print_table(drift_table(drifts), sys.stdout)
    failures = failures_of(rows)
    if failures:
        print("\nwithout a figure:")
        for line in failures:
            print(f"  {line}")


@contextmanager
def damage_reported() -> Iterator[None]:
    """A file of a run that cannot be read becomes a line on stderr, not what Python prints for a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DamagedFileWarning)
        yield
    for each in caught:
        print(f"warning: {each.message}", file=sys.stderr)
