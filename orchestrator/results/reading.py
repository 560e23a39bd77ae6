"""One flat table of a run from its many files: each attempt once, and of each job the current one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from orchestrator.results import schema
from orchestrator.results.attempt_files import (
    Damaged,
    Key,
    Read,
    keys_in,
    keys_of,
    of_all_files,
    of_each,
    read_parquet,
    without_keys,
)
from orchestrator.results.flat import columns_needed, flatten


@dataclass(frozen=True, slots=True)
class FileRows:
    """``rows`` of a flat table, and the attempts in the file: one may have no row in that table."""

    keys: frozenset[Key]
    rows: pa.Table


def read_devices(folder: Path) -> Read:
    """The table ``devices`` of a run, from its folder ``devices``."""
    wanted = schema.schema("devices")
    files = sorted(folder.glob("[!.]*.parquet"))
    found = of_each(files, lambda path: schema.conform(read_parquet(path), wanted))
    tables = [each for each in found if isinstance(each, pa.Table)]
    return Read(_joined(tables, wanted), tuple(each for each in found if isinstance(each, Damaged)))


def read_attempts(folder: Path, table: str, columns: Iterable[str] | None, *, all_attempts: bool) -> Read:
    """``columns`` names those of ``trials`` to read from the disk; the others are then null."""
    names = columns_needed(table) if columns is None else sorted({*columns, "job_id", "attempt", "trial", "started_at"})
    some = pa.schema([field for field in schema.schema(table) if field.name in names])

    def prepare(path: Path) -> FileRows:
        attempts = read_parquet(path, names)
        # only the columns that were read: those that are null throughout are added once, to the whole table
        rows = schema.conform(attempts, some) if table == "trials" else flatten(attempts, table)
        return FileRows(keys_in(path, attempts), rows)

    found = of_all_files(folder, prepare)
    files = [each for each in found.values() if isinstance(each, FileRows)]
    whole = _joined(list(once(files, all_attempts=all_attempts)), some if table == "trials" else schema.schema(table))
    damaged = tuple(each for each in found.values() if isinstance(each, Damaged))
    keys = frozenset[Key]().union(*(each.keys for each in files))
    return Read(schema.conform(whole, schema.schema(table)), damaged, keys)


def current_keys(keys: Iterable[Key]) -> frozenset[Key]:
    """Of each job the latest attempt: those before it were superseded by `orchestrate retry`. PURE"""
    latest: dict[str, int] = {}
    for job, attempt in keys:
        latest[job] = max(attempt, latest.get(job, attempt))
    return frozenset(latest.items())


def current_rows(rows: pa.Table) -> pa.Table:
    """The rows of each job's latest attempt; of several runs, too, for a job is of one run. PURE"""
    keys = keys_of(rows)
    return without_keys(rows, keys - current_keys(keys))


def once(files: Sequence[FileRows], *, all_attempts: bool = False) -> Iterator[pa.Table]:
    """The rows of each file that no earlier file has, and that are of a current attempt. PURE"""
    wanted = set().union(*(each.keys for each in files)) if files else set[Key]()
    if not all_attempts:
        wanted = set(current_keys(wanted))
    for each in files:
        if wanted & each.keys or not each.keys:
            yield without_keys(each.rows, each.keys - wanted)
        wanted -= each.keys


def _joined(tables: Sequence[pa.Table], wanted: pa.Schema) -> pa.Table:
    # combined: thousands of files would else leave thousands of chunks, each a step in every later operation
    return pa.concat_tables(tables).combine_chunks() if tables else wanted.empty_table()
