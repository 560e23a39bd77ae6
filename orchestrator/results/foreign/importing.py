"""Files of other tools into the store: all of them, or nothing; the same file twice is there once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.errors import UsageError
from orchestrator.matrix.problems import quoted
from orchestrator.results import schema
from orchestrator.results.durable import remove
from orchestrator.results.flat import flatten
from orchestrator.results.foreign.llama_bench import KNOWN_BY, is_llama_bench, rows_of_record
from orchestrator.results.foreign.mapping import ColumnMap, filled, mapped_row
from orchestrator.results.foreign.records import Record, RecordFile, decoded_text, read_records
from orchestrator.results.store import Store

ORIGIN = "imported"
STDIN = "standard input"
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """A file as it was read: ``name`` for people, ``data`` its bytes."""

    name: str
    data: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()[:16]

    @property
    def jobs(self) -> str:
        """How the ids of its jobs begin; the record's number from 0 follows."""
        return f"import-{self.digest}-"


@dataclass(frozen=True, slots=True)
class Imported:
    """``records`` of the file became ``trials`` of ``run``; ``added`` False: they were there already."""

    file: str
    run: str
    kind: str
    records: int
    trials: int
    added: bool


@dataclass(frozen=True, slots=True)
class _Ready:
    foreign: ForeignFile
    run: str
    kind: str
    records: int
    table: pa.Table

    @property
    def first_job(self) -> str:
        return f"{self.foreign.jobs}000000"

    def done(self, added: bool) -> Imported:
        return Imported(self.foreign.name, self.run, self.kind, self.records, self.table.num_rows, added)


def import_files(
    store: Store,
    files: Sequence[ForeignFile],
    *,
    run: str | None = None,
    device: str | None = None,
    mapping: ColumnMap | None = None,
    measured: Collection[str] = (),
) -> list[Imported]:
    """``run`` None: named after each file. ``measured``: names of runs that are Orchestrate's own.

    Raises UsageError that names file, line or record, key and what is allowed; StoreError and the like for the disk.
    Nothing is then kept of any of the files.
    """
    ready = [_read(each, run, device, mapping) for each in files]
    done: list[Imported] = []
    with _all_or_nothing() as written:
        for each in ready:
            if (there := _there_already(store, each, named=run is not None)) is not None:
                done.append(there)
                continue
            _check_run(store, each, named=run is not None, measured=measured)
            written.append(store.append_rows(each.run, each.table))
            done.append(each.done(added=True))
    return done


@contextmanager
def _all_or_nothing() -> Iterator[list[Path]]:
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in written:
            remove(path)
            with suppress(OSError):  # a folder that holds more stays
                path.parent.rmdir()
                path.parent.parent.rmdir()
        raise


def run_name(foreign: ForeignFile) -> str:
    """``bench.json`` -> ``bench``; what a pipe brought is named after its content."""
    if foreign.name == STDIN:
        return f"import-{foreign.digest[:8]}"
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", Path(foreign.name).stem).lstrip("._-")[:80]
    return stem or f"import-{foreign.digest[:8]}"


def _read(foreign: ForeignFile, run: str | None, device: str | None, mapping: ColumnMap | None) -> _Ready:
    name = run or run_name(foreign)
    if not _RUN.fullmatch(name) or name == "latest":
        raise UsageError(f"--run {quoted(name)}: allowed: letters, digits, '.', '_', '-', at most 128; not latest")
    text = decoded_text(foreign.data, foreign.name)
    found = read_records(text, foreign.name, mapping.delimiter if mapping else ",")
    own = is_llama_bench(found.names) and not (mapping and mapping.columns)
    if not own and mapping is None:
        raise UsageError(_unknown(found, foreign.name))
    rows: list[Row] = []
    for number, record in enumerate(found.records):
        made = _rows(record, device, mapping, own=own)
        keys = {"job_id": f"{foreign.jobs}{number:06}", "cell_id": _cell_id(made[0]), "attempt": 1}
        rows += [each | keys | {"run": name, "trial": place, "repeat": place} for place, each in enumerate(made)]
    whole = {"warmup": False, "origin": ORIGIN}
    kind = f"llama-bench {found.kind}" if own else f"{found.kind} by {mapping.file if mapping else ''}"
    table = pa.Table.from_pylist([row | whole for row in rows], schema=schema.attempt_schema())
    return _Ready(foreign, name, kind, len(found.records), table)


def _rows(record: Record, device: str | None, mapping: ColumnMap | None, *, own: bool) -> list[Row]:
    if not own:
        assert mapping is not None  # _read refused a file that nothing explains
        return [mapped_row(record, mapping, device)]
    more = filled(record, mapping) if mapping else {}
    return [row | more for row in rows_of_record(record, device or more.get("device"))]


def _unknown(found: RecordFile, file: str) -> str:
    missing = [name for name in KNOWN_BY if name not in found.names]
    there = ", ".join(quoted(name) for name in found.names[:40])
    return (
        f"{file}: not llama-bench's {found.kind}: {', '.join(missing)} missing. Its columns need a mapping: --map FILE"
        f" (docs/import.md). There are: {there}"
    )


def _cell_id(row: Row) -> str:
    """Of what was asked for and with what settings, without the device: equal for repetitions of one test."""
    asked = {each.name: row.get(each.name) for each in (*schema.WORKLOAD, *schema.SETTINGS)}
    reported = [pair for pair in row.get("settings") or () if pair[0] not in ("cpu_info", "gpu_info")]
    return hashlib.sha256(json.dumps([asked, reported], sort_keys=True, default=str).encode()).hexdigest()[:16]


def _there_already(store: Store, ready: _Ready, *, named: bool) -> Imported | None:
    """Where the store holds these rows. Raises UsageError where it holds the file, but read in another way."""
    runs = store.runs()
    near = [ready.run] if named else [ready.run, *(each for each in runs if each != ready.run)]
    for run in near:
        if run not in runs or not store.has(run, ready.first_job, 1):
            continue
        kept = _of_file(store.read(run).table, ready.foreign)
        if kept != _of_file(flatten(ready.table, "trials"), ready.foreign):
            raise UsageError(
                f"{ready.foreign.name}: is in run {run} already, imported with another --device or --map;"
                f" give another --run, or remove {store.run_folder(run)}"
            )
        return Imported(ready.foreign.name, run, ready.kind, ready.records, ready.table.num_rows, added=False)
    return None


def _of_file(trials: pa.Table, foreign: ForeignFile) -> list[tuple[tuple[Any, ...], Row]]:
    """Rows that came from the file, in their order, without what may differ: the run, and who wrote them."""
    rows = [row for row in trials.to_pylist() if str(row["job_id"]).startswith(foreign.jobs)]
    same = {"run": None, "orchestrate_version": None}
    return sorted((((row["job_id"], row["trial"]), row | same) for row in rows), key=lambda pair: pair[0])


def _check_run(store: Store, ready: _Ready, *, named: bool, measured: Collection[str]) -> None:
    """A run is measured or imported; without ``--run`` it is new."""
    if ready.run not in store.runs() and ready.run not in measured:
        return
    own = ready.run in measured
    if not own:
        own = set(store.read(ready.run, columns=["origin"]).table.column("origin").to_pylist()) - {ORIGIN} != set()
    if own:
        raise UsageError(f"{ready.foreign.name}: run {ready.run} was measured here; give another name by --run")
    if not named:
        raise UsageError(
            f"{ready.foreign.name}: run {ready.run} is there already, from another file;"
            f" --run {ready.run} adds to it, another --run keeps them apart"
        )
