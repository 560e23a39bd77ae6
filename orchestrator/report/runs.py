"""Runs as tables: all runs in a line each, one run in a line for each cell, and how its devices drifted. PURE"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from agents.contract.measure import FLAG_DESCRIPTIONS
from orchestrator.compare import axes
from orchestrator.compare.defaults import METRICS, independent
from orchestrator.compare.drift import DRIFTED, Drift
from orchestrator.compare.groups import TrialGroup, summarise_group
from orchestrator.compare.trials import SILENT, Row, choose_trials, origin_notes
from orchestrator.report.text_table import TableCell, TextTable, format_figure, format_unit

SUMMARY_COLUMNS = ("run", "job_id", "attempt", "status", "device", "model", "started_at", "ended_at", "origin")
"""What ``summarise_run`` needs: ``Store.read(run, columns=SUMMARY_COLUMNS)``."""

_SHOWN = (*METRICS, "load_s", "completion_tokens")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """``statuses`` counts jobs by the status of their last attempt; one with a failure is no ``ok``."""

    run: str
    started_at: datetime | None
    ended_at: datetime | None
    devices: tuple[str, ...]
    models: tuple[str, ...]
    statuses: tuple[tuple[str, int], ...]
    remaining: int = 0  # jobs that are not done
    origins: tuple[str, ...] = ()


def summarise_run(run: str, trials: pa.Table) -> RunSummary:
    last: dict[Any, tuple[Any, bool, Any]] = {}
    columns: dict[str, list[Any]] = {name: trials.column(name).to_pylist() for name in SUMMARY_COLUMNS}
    for job, attempt, status in zip(columns["job_id"], columns["attempt"], columns["status"], strict=True):
        # An attempt that failed can hold complete trials, rows that are "ok": the failure counts.
        last[job] = max((attempt, status != "ok", status), last.get(job, (0, False, "")))
    counts = Counter(status for _, _, status in last.values())
    return RunSummary(
        run=run,
        started_at=min((each for each in columns["started_at"] if each), default=None),
        ended_at=max((each for each in columns["ended_at"] if each), default=None),
        devices=_distinct(columns["device"]),
        models=_distinct(columns["model"]),
        statuses=tuple(sorted(counts.items())),
        origins=_distinct(columns["origin"]),
    )


def _distinct(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in values if value is not None}))


def runs_table(summaries: Sequence[RunSummary]) -> TextTable:
    """For ``orchestrate results``: a line a run, in the order given."""
    headers = ("run", "started (UTC)", "jobs", "ok", "failed", "refused", "remaining", "devices", "models")
    foreign = any(set(each.origins) - {"measured"} for each in summaries)
    rows = []
    for each in summaries:
        counts = Counter(dict(each.statuses))
        numbers = (
            sum(counts.values()) + each.remaining,
            counts["ok"],
            counts["failed"],
            counts["refused"],
            each.remaining,
        )
        texts = (each.run, f"{each.started_at:%Y-%m-%d %H:%M}" if each.started_at else "-", *map(str, numbers))
        origin = [_listed(each.origins)] if foreign else []
        rows.append(tuple(TableCell(text) for text in (*texts, _listed(each.devices), _listed(each.models), *origin)))
    note = (
        ["remaining: not done yet; `orchestrate resume RUN` goes on."]
        if any(each.remaining for each in summaries)
        else []
    )
    return TextTable(
        "Runs", (*headers, "origin") if foreign else headers, tuple(rows), 2, tuple(note) if rows else ("No runs.",)
    )


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "-"


def run_table(trials: pa.Table, also: Sequence[str] = ()) -> TextTable:
    """For ``orchestrate show``: a line a cell with its status, medians, spread, number of trials, failures and flags.

    ``also``: axes that are shown though nothing in the table varies along them: the rest of the run is to come.
    """
    chosen = choose_trials(trials, _SHOWN)
    found = independent([row for row in chosen.rows if row["status"] not in SILENT])
    names = [axis for axis in axes.AXES if axis in {*found, *also}] or ["model"]
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in chosen.rows:
        groups[tuple(row[name] for name in names)].append(row)
    metrics = [name for name in _SHOWN if any(row[name] is not None for row in chosen.rows)]
    order = sorted(groups, key=lambda key: [axes.sort_key(*pair) for pair in zip(names, key, strict=True)])
    rows = tuple(
        (*(TableCell(axes.label(*pair)) for pair in zip(names, key, strict=True)), *_line(groups[key], metrics))
        for key in order
    )
    heads = (f"{name}, {format_unit(axes.METRICS[name])}" for name in metrics)
    flags = {flag for row in chosen.rows for flag in row["flags"] or ()}
    return TextTable(
        title="A line a cell: medians over the trials of each. Warm-ups left out.",
        headers=(*(axes.short_name(name) for name in names), "status", "n", *heads, "failures", "flags"),
        rows=rows,
        label_columns=len(names) + 1,
        notes=(
            "±: the farthest end of the spread from the median (smallest or largest below 5 trials, else quartiles).",
            *(f"{flag}: {FLAG_DESCRIPTIONS.get(flag, flag)}" for flag in sorted(flags)),
            *(["Flagged trials are left out, and not counted in n, where a cell has others."] if flags else []),
            *origin_notes(chosen.rows),
            *([f"{chosen.superseded} earlier attempts of retried jobs left out."] if chosen.superseded else []),
        ),
    )


def _line(rows: Sequence[Row], metrics: Sequence[str]) -> tuple[TableCell, ...]:
    cells = {name: summarise_group(rows, name, None) for name in metrics}
    any_cell = summarise_group(rows, "attempt", None)  # every row has one: failures and flags do not hang on a metric
    statuses = Counter(row["status"] for row in rows)
    status = ", ".join(f"{name} {count}" if len(statuses) > 1 else name for name, count in sorted(statuses.items()))
    counted = max((cell.summary.n for cell in cells.values() if cell.summary), default=0)
    return (
        TableCell(status.replace("_", " "), failed="ok" not in statuses),
        TableCell(str(counted)),
        *(TableCell(_figure(name, cells[name])) for name in metrics),
        TableCell("; ".join(words for words, _ in any_cell.failures), failed=bool(any_cell.failures)),
        TableCell(", ".join(f"{flag} {count}" for flag, count in any_cell.flagged)),
    )


def _figure(name: str, cell: TrialGroup) -> str:
    """``17.2 ±3%``; ``?`` behind it where only flagged trials have a figure."""
    found = cell.summary
    if found is None:
        return ""
    text = format_figure(axes.METRICS[name], found.median)
    if found.n > 1 and found.median and name in METRICS:
        text += f" ±{max(found.high - found.median, found.median - found.low) / found.median:.0%}"
    return f"{text} ?" if cell.only_flagged else text


def drift_table(drifts: Sequence[Drift]) -> TextTable:
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
        rows.append(tuple(TableCell(text, failed=each.drifted) for text in texts))
    headers = ("device", "state", "n", "hours", "first, tokens/s", "last", "drift", "range")
    note = f"Marked: a range of {DRIFTED:.0%} or more. Do not compare figures far apart in time as they are."
    title = "Canary: one fixed short cell before, between and after the others; its decode rate."
    return TextTable(title, headers, tuple(rows), 2, (note,) if any(each.drifted for each in drifts) else ())
