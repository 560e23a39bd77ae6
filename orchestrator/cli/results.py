"""``orchestrate results`` and ``show``: what is kept, one run."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from agents.contract.report import CAUSES, Cause
from agents.places import data_root
from orchestrator.cli.kept_run import (
    from_ledger,
    ledger_rows,
    measured_run,
    raise_complaints,
    read_run,
    warn_of_unknown_runs,
)
from orchestrator.cli.ledger_access import no_coordinator_runs
from orchestrator.cli.texts import first_line, format_count
from orchestrator.cli.view import RunDigest
from orchestrator.compare.axes import axis_named, label
from orchestrator.compare.defaults import default_pivot
from orchestrator.compare.drift import drifts_of
from orchestrator.dispatch.ledger.ledger import RunRow
from orchestrator.dispatch.messages import RunStatus
from orchestrator.matrix import Value, matrix_from_json
from orchestrator.report.pivot_table import pivot_table
from orchestrator.report.runs import SUMMARY_COLUMNS, RunSummary, drift_table, run_table, runs_table, summarise_run
from orchestrator.report.terminal import print_table
from orchestrator.results.attempt_files import DamagedFileWarning, Key
from orchestrator.results.export import json_lines
from orchestrator.results.reading import current_rows
from orchestrator.results.store import Store

SHOWN_FAILURES = 20

_NAMED = (
    *(("context_tokens", "ctx"), ("kv_type_k", "kv"), ("dedicated_vram_bytes", "vram")),
    *(("power_limit_w", ""), ("power_profile", "profile")),
)
"""Columns that tell cells apart where their value alone would not, with the word before it."""
FAILURE_COLUMNS = (
    *("job_id", "attempt", "status", "cause", "detail"),
    *("engine", "model", "quantisation", "runtime", "workload"),
    *(name for name, _ in _NAMED),
)
DRIFT_COLUMNS = (
    *("decode_tps", "canary", "warmup", "status", "flags", "device", "device_id", "started_at"),
    *("dedicated_vram_bytes", "power_limit_w", "power_profile"),
)


def run_digest(run: str, root: Path) -> RunDigest:
    """What is shown at a run's end: the default comparison, and what failed and why."""
    if run not in Store(root).runs():
        return RunDigest((), ())
    with damage_reported():
        table = Store(root).load(run)
    return digest_of_trials(table, pending_axes(run))


def digest_of_trials(table: pa.Table, also: Sequence[str] = ()) -> RunDigest:
    """``also``: axes that vary in cells which are still pending."""
    pivots = default_pivot(table)
    side_by_side = any(each.col_axes for each in pivots) and not also
    tables = tuple(pivot_table(each) for each in pivots) if side_by_side else (run_table(table, also),)
    return RunDigest(tables, failures_of(failed_rows(table)))


def rows_with(table: pa.Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of some columns: 150 of 40,000 rows take half a minute to become Python's."""
    return table.select(list(columns)).to_pylist()


def failed_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Of the current attempts."""
    current = current_rows(table)
    failed: Any = [status != "ok" for status in current.column("status").to_pylist()]
    return rows_with(current.filter(pa.array(failed, pa.bool_())), FAILURE_COLUMNS)


def pending_axes(run: str) -> tuple[str, ...]:
    """The axes that vary in the matrix of a run that is not complete: what is done yet may not show them."""
    row = ledger_rows().get(run)
    text = from_ledger(lambda ledger: ledger.matrix(run), "") if row is not None and row.remaining else ""
    if not text:
        return ()
    matrix = matrix_from_json(text)
    seen: dict[str, set[Value]] = {}
    for grid in matrix.grids:
        for dim in grid.dims:
            for place, name in enumerate(dim.names):
                seen.setdefault(name, set()).update(option[place] for option in dim.options)
    return tuple(axis_named(name) for name, values in seen.items() if len(values) > 1)


def failures_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A line for each distinct failure of a last attempt, with its count. PURE"""
    last = _last_attempts(rows)
    ends = [row for row in rows if row["status"] != "ok" and row["attempt"] == last[row["job_id"]]]
    counts = Counter(
        f"{_describe_cell(row)}: {CAUSES[Cause(row['cause'])].description}: {first_line(row['detail'] or '')}"
        for row in ends
    )
    lines = [f"{line}  (x{count})" if count > 1 else line for line, count in counts.items()]
    more = len(lines) - SHOWN_FAILURES
    return (*lines[:SHOWN_FAILURES], *([f"... and {more} more: orchestrate show"] if more > 0 else []))


def _describe_cell(row: Mapping[str, Any]) -> str:
    parts = [row["engine"], row["model"], row["quantisation"], row["runtime"], row["workload"]]
    parts[4:4] = [f"{word} {label(name, row[name])}".strip() for name, word in _NAMED if row[name] is not None]
    return " ".join(str(part) for part in parts if part)


def list_runs(*, as_json: bool) -> None:
    store, runs = Store(data_root()), ledger_rows()
    there = store.runs()
    summaries = []
    for run in dict.fromkeys((*runs, *reversed(there))):  # the newest first, as the ledger has them
        found = RunSummary(run, None, None, (), (), ())
        if run in there:
            read = store.read(run, columns=SUMMARY_COLUMNS)
            found = summarise_run(run, read.table)
            for damaged in read.damaged:
                print(f"warning: {damaged}", file=sys.stderr)
        row = runs.get(run)
        summaries.append(replace(found, remaining=row.remaining) if row else found)
    if not as_json:
        print_table(runs_table(summaries), sys.stdout)
    for each in summaries if as_json else ():
        started = each.started_at.isoformat() if each.started_at else None
        facts = {"run": each.run, "origins": each.origins, "started_at": started, "statuses": dict(each.statuses)}
        work = {"left": each.remaining, "complete": not each.remaining, "devices": each.devices, "models": each.models}
        print(json.dumps(facts | work))
    warn_of_unknown_runs(there)


def _how_it_goes_on(row: RunRow) -> str:
    """Of a run that is not complete."""
    resume = f"go on with: orchestrate resume {row.id}"
    if row.status is not RunStatus.RUNNING:
        return f"it is {row.status.value}; {resume}"
    with no_coordinator_runs() as free:
        return resume if free else "a submit or a head on this machine is at work"


def show_run(name: str, *, as_json: bool, all_attempts: bool) -> None:
    run = measured_run(name)
    # a table of cells tells how many attempts were superseded: it needs them all
    read = read_run(run, all_attempts=all_attempts or not as_json)
    if as_json:
        for line in json_lines(read.table):
            sys.stdout.write(line)
    else:
        _print_run(run, read.table, all_attempts=all_attempts)
    warn_of_unknown_runs([run])
    raise_complaints([read.complaint])


def _print_run(run: str, table: pa.Table, *, all_attempts: bool) -> None:
    row = ledger_rows().get(run)
    print(f"run {run}: {data_root() / 'runs' / run}")
    if row is not None and row.remaining:
        print(f"not complete: {row.remaining} of {format_count(row.jobs, 'job')} left; {_how_it_goes_on(row)}")
    print_table(run_table(table, pending_axes(run)), sys.stdout)
    is_canary: Any = table.column("canary")
    if drifts := drifts_of(rows_with(table.filter(is_canary), DRIFT_COLUMNS)):  # null is none
        print()
        print_table(drift_table(drifts), sys.stdout)
    for title, lines in (
        ("without a figure", failures_of(failed_rows(table))),
        ("earlier attempts of retried jobs", superseded_of(rows_with(table, FAILURE_COLUMNS)) if all_attempts else ()),
    ):
        if lines:
            print(f"\n{title}:")
            for line in lines:
                print(f"  {line}")


def superseded_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A line for each attempt that `orchestrate retry` superseded: job, attempt and what it came to. PURE"""
    last = _last_attempts(rows)
    ends: dict[Key, str] = {}
    for row in rows:
        if row["attempt"] < last[row["job_id"]]:
            end = row["status"] if row["cause"] is None else f"{CAUSES[Cause(row['cause'])].description}"
            key = (row["job_id"], row["attempt"])
            ends[key] = end if row["status"] != "ok" else ends.get(key, end)
    return tuple(f"{job} attempt {attempt}: {end}" for (job, attempt), end in sorted(ends.items()))


def _last_attempts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    last: dict[str, int] = {}
    for row in rows:
        last[row["job_id"]] = max(row["attempt"], last.get(row["job_id"], 0))
    return last


@contextmanager
def damage_reported() -> Iterator[None]:
    """A file of a run that cannot be read becomes a line on stderr, not what Python prints for a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DamagedFileWarning)
        yield
    for each in caught:
        print(f"warning: {each.message}", file=sys.stderr)
