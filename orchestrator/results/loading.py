"""``orchestrator.load``: whatever holds results, as one of the five tables."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

from agents.places import data_root
from orchestrator.errors import UsageError
from orchestrator.matrix.problems import nearest, quoted
from orchestrator.results import schema
from orchestrator.results.attempt_files import Unreadable, read_parquet
from orchestrator.results.export import format_of, read_csv, read_json_lines
from orchestrator.results.flat import flatten
from orchestrator.results.reading import current_rows
from orchestrator.results.reference import PREFIX, is_published, load_published_csv, load_reference, references
from orchestrator.results.store import Store


def load(path: str | Path, table: str = "trials", *, run: str | None = None, all_attempts: bool = False) -> pa.Table:
    """See ``orchestrator.results.load``."""
    wanted = schema.schema(table)
    if str(path).startswith(PREFIX):
        return load_reference(str(path)) if table == "trials" else wanted.empty_table()
    if isinstance(path, str) and not Path(path).exists() and path in Store(data_root()).runs():
        return Store(data_root()).load(path, table, all_attempts=all_attempts)
    path = Path(path)
    if path.is_dir():
        store, name = _run_in(path, run)
        return store.load(name, table, all_attempts=all_attempts)
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder, and no run under {data_root()}")
    try:
        found = _file(path, table, wanted)
        return found if all_attempts or table == "devices" else current_rows(found)
    except (Unreadable, pa.ArrowException, csv.Error, ValueError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as {table}: {' '.join(str(error).split())[:300]}") from error


def load_runs(names: Sequence[str], root: str | Path) -> pa.Table:
    """``trials`` of several runs in a row: each a run in the results folder ``root``, or what ``load`` takes."""
    known = set(Store(root).runs())
    tables = [
        Store(root).load(name) if name in known else _run_or_path(name, Path(root)) for name in dict.fromkeys(names)
    ]
    return pa.concat_tables(tables) if tables else schema.schema().empty_table()


def _run_or_path(name: str, root: Path) -> pa.Table:
    if name.startswith(PREFIX) or Path(name).exists():
        return load(name)
    runs = Store(root).runs()
    there = ", ".join((*runs, *(PREFIX + each for each in references())))
    raise UsageError(
        f"no run {quoted(name)} in {root}, and no such path{nearest(name, runs) or '.'} There are: {there}"
    )


def _run_in(path: Path, run: str | None) -> tuple[Store, str]:
    """The run in a folder, which is its own or one of results."""
    if run is None and (path / "trials").is_dir():
        root = path.resolve()
        return Store(root.parent.parent), root.name
    runs = Store(path).runs()
    if run is None and len(runs) == 1:
        run = runs[0]
    if run is None:
        what = f"holds {len(runs)} runs, say which: {', '.join(runs)}" if runs else "is no run and holds none"
        raise UsageError(f"{path}: {what}")
    return Store(path), run


def _file(path: Path, table: str, wanted: pa.Schema) -> pa.Table:
    kind = format_of(path).name
    if kind == "csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
        if is_published(header):
            return load_published_csv(path) if table == "trials" else wanted.empty_table()
        unknown = [name for name in header if name not in wanted.names]
        if unknown or not header:
            raise UsageError(f"{path}: does not hold {table}: unknown column {quoted(unknown[0] if unknown else '')}")
        return schema.conform(read_csv(path, wanted), wanted)
    if kind == "jsonl":
        return read_json_lines(path, wanted)
    readers: dict[str, Callable[[Path], pa.Table]] = {"parquet": read_parquet, "arrow": _read_arrow}
    if kind not in readers:
        raise UsageError(f"{path}: a file that is only written. Allowed: csv, jsonl, {', '.join(readers)}")
    found = readers[kind](path)
    held = (found.schema.metadata or {}).get(schema.TABLE_KEY, b"").decode()
    if held == "attempt" and table != "devices":
        return flatten(found, table)
    if held != table:
        raise UsageError(f"{path}: holds {quoted(held) if held else 'no table of Orchestrate'}, not {table}")
    return schema.conform(found, wanted)


def _read_arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return ipc.open_file(source).read_all()
