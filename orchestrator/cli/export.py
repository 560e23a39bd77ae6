"""``orchestrate export``: a run's table as a file for other tools, or its tests as llama-bench writes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.cli.kept_run import RunRows, measured_run, raise_complaints, read_run, warn_of_unknown_runs
from orchestrator.cli.texts import format_count
from orchestrator.errors import UsageError
from orchestrator.report.llama_bench import llama_bench_file
from orchestrator.results import load, schema
from orchestrator.results.durable import durable_file
from orchestrator.results.export import export, export_format
from orchestrator.results.reference import PREFIX

LLAMA_BENCH = "llama-bench"


def export_run(
    name: str,
    path: Path | None,
    output: Path | None,
    *,
    table: str,
    file_format: str | None,
    where: Sequence[str],
    build: str | None,
    all_attempts: bool,
) -> None:
    """``path`` and ``output`` are the same thing, given in two ways; for llama-bench neither means standard output."""
    if path is not None and output is not None:
        raise UsageError(f"PATH {path} and --output {output}: one of them is enough")
    to = path if path is not None else output
    if table not in schema.TABLES:
        raise UsageError(f"table {table!r}: allowed: {', '.join(schema.TABLES)}")
    if to is not None and not to.parent.is_dir():
        raise UsageError(f"{to}: there is no folder {to.parent}")
    if file_format == LLAMA_BENCH and all_attempts:
        raise UsageError(f"--all-attempts: not with --format {LLAMA_BENCH}")
    if file_format == LLAMA_BENCH:
        _export_llama_bench(name, to, table, where, build)
        return
    if where or build:
        raise UsageError(f"--where and --build: only with --format {LLAMA_BENCH}")
    if to is None:
        raise UsageError("PATH is missing: the file to write")
    found = _loaded(name, table, all_attempts=all_attempts)
    if str(to) == "-":
        export_format(file_format or "csv").write(found.table, sys.stdout.buffer)
        sys.stdout.flush()
    else:
        written = export(found.table, to, file_format)
        print(f"{written}: {format_count(found.table.num_rows, 'row')} of {table}")
    _complain(name, found)


def _complain(name: str, *read: RunRows) -> None:
    """Last of all: what can be read is written. Raises OrchestrateError where rows are missing."""
    if not name.startswith(PREFIX):
        warn_of_unknown_runs([measured_run(name)], if_never_there=False)
    raise_complaints([each.complaint for each in read])


def _loaded(name: str, table: str, *, all_attempts: bool = False) -> RunRows:
    if name.startswith(PREFIX):
        return RunRows(load(name, table), "")
    return read_run(measured_run(name), table, all_attempts=all_attempts)


def _export_llama_bench(name: str, to: Path | None, table: str, where: Sequence[str], build: str | None) -> None:
    if table != "trials":
        raise UsageError(f"--table {table}: {LLAMA_BENCH} has no such table. Allowed with it: trials")
    trials, devices = _loaded(name, "trials"), _loaded(name, "devices")
    found = llama_bench_file(trials.table, devices.table, where=where, build=build)
    text = json.dumps(found.records, indent=2, ensure_ascii=False) + "\n"
    if to is None or str(to) == "-":
        sys.stdout.write(text)
    else:
        with durable_file(to) as file:
            file.write(text.encode())
        print(f"{to}: {format_count(len(found.records), 'test')} as {LLAMA_BENCH} writes them")
    for commit, engine in found.builds.items():
        print(f"build_commit {commit}: {engine}", file=sys.stderr)
    for why, count in found.left_out.items():
        print(f"left out: {format_count(count, 'trial')} {why}", file=sys.stderr)
    _complain(name, trials, devices)
