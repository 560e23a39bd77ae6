"""The rows of ``trials`` that a comparison looks at. PURE"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.compare import axes
from orchestrator.compare.energy import DERIVED
from orchestrator.results import schema

Row = Mapping[str, Any]

SILENT = ("estimate_only", "not_measured")
"""Statuses of published rows that hold no figure: an axis they leave empty means all its values."""

ORIGIN_NOTES = {
    "published": "Published figures: not measured here, and by their tool's own definitions.",
    "imported": "Imported figures: measured by another tool, and by its own definitions.",
}
"""The remark about figures that are not Orchestrate's own."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """``rows`` hold every axis and the metrics asked for; ``superseded`` counts attempts of jobs that were retried."""

    rows: tuple[Row, ...]
    superseded: int


def choose_trials(table: pa.Table, metrics: Sequence[str], where: Sequence[str] = ()) -> Chosen:
    """Without warm-ups and canaries, of each job only the last attempt, and only what ``where`` asks for
    (``AXIS=VALUE[,VALUE]``).

    Raises UsageError for an unknown axis or value.
    """
    last: dict[tuple[Any, Any], int] = {}
    attempts = _attempts(table)
    for run, job, attempt in attempts:
        last[run, job] = max(last.get((run, job), 0), attempt or 0)
    kept = [
        row
        for row in _once(_rows(_counted(table), metrics))
        if (row["attempt"] or 0) == last[row["run"], row["job_id"]]
    ]
    for written in where:
        axis, texts = axes.split_choice(written, "filter")
        wanted = {axes.choose(axis, text, (row[axis] for row in kept)) for text in texts}
        kept = [row for row in kept if row[axis] in wanted or (row[axis] is None and row["status"] in SILENT)]
    return Chosen(tuple(kept), len(attempts) - len(last))


def _attempts(table: pa.Table) -> set[tuple[Any, Any, Any]]:
    """(run, job_id, attempt), each once."""
    keys = ["run", "job_id", "attempt"]
    found = schema.conform(table, schema.schema()).select(keys).group_by(keys).aggregate([])
    return set(zip(*(found.column(name).to_pylist() for name in keys), strict=True))


def _counted(table: pa.Table) -> pa.Table:
    """Without warm-ups and canaries: by Arrow, for in a large run half of the rows are warm-ups."""
    table = schema.conform(table, schema.schema())
    warmup: Any = pc.fill_null(cast(Any, table.column("warmup")), False)
    canary: Any = pc.fill_null(cast(Any, table.column("canary")), False)
    return table.filter(pc.invert(pc.or_(warmup, canary)))


_ALWAYS = ("job_id", "attempt", "trial", "warmup", "canary", "status", "cause", "note", "flags")


def _once(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run and a file exported from it hold the same trials: each counts once."""
    found: dict[object, dict[str, Any]] = {}
    for place, row in enumerate(rows):
        one = (row["run"], row["job_id"], row["attempt"], row["trial"])
        found.setdefault(place if row["job_id"] is None else one, row)
    return list(found.values())


def _rows(table: pa.Table, metrics: Sequence[str]) -> list[dict[str, Any]]:
    table = schema.conform(table, schema.schema())
    derived = {name: DERIVED[name] for name in metrics if name in DERIVED}
    wanted = (*axes.NAMED, *metrics, *(need for each in derived.values() for need in each.needs), *_ALWAYS)
    names = [name for name in dict.fromkeys(wanted) if name != axes.KV_TYPE and name not in derived]
    columns = [table.column(name).to_pylist() for name in names]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    for row in rows:
        k, v = row["kv_type_k"], row["kv_type_v"]
        row[axes.KV_TYPE] = k if k == v else f"{k or '-'}/{v or '-'}"
        row |= {name: each.of(row) for name, each in derived.items()}
    return rows


def origin_notes(rows: Iterable[Row]) -> tuple[str, ...]:
    """A note for each foreign origin among ``rows``."""
    origins = {row["origin"] for row in rows}
    return tuple(note for origin, note in ORIGIN_NOTES.items() if origin in origins)


def varying(rows: Iterable[Row], names: Iterable[str]) -> tuple[str, ...]:
    """Axes of ``names`` with more than one value, in that order. For what was found, null is no value."""
    rows = [row for row in rows if row["status"] not in SILENT]
    return tuple(name for name in names if len(values_of(rows, name)) > 1)


def values_of(rows: Iterable[Row], axis: str) -> set[Any]:
    found = {row[axis] for row in rows}
    return found - {None} if axis in axes.FOUND else found
