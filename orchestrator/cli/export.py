"""``orchestrate export``: a run's table as a file for other tools, or its tests as llama-bench writes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from agents.places import data_root
from orchestrator.cli.results import damage_reported, measured_run
from orchestrator.cli.texts import format_count
from orchestrator.errors import UsageError
from orchestrator.report.llama_bench import llama_bench_file
from orchestrator.results import load, schema
from orchestrator.results.durable import durable_file
from orchestrator.results.export import export, export_format
from orchestrator.results.reference import PREFIX
from orchestrator.results.store import Store

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
) -> None:
    """``path`` and ``output`` are the same thing, given in two ways; for llama-bench neither means standard output."""
    if path is not None and output is not None:
        raise UsageError(f"PATH {path} and --output {output}: one of them is enough")
    to = path if path is not None else output
    if table not in schema.TABLES:
        raise UsageError(f"table {table!r}: allowed: {', '.join(schema.TABLES)}")
    if to is not None and not to.parent.is_dir():
        raise UsageError(f"{to}: there is no folder {to.parent}")
    if file_format == LLAMA_BENCH:
        _export_llama_bench(name, to, table, where, build)
        return
    if where or build:
        raise UsageError(f"--where and --build: only with --format {LLAMA_BENCH}")
    if to is None:
        raise UsageError("PATH is missing: the file to write")
    found = _loaded(name, table)
    if str(to) == "-":
        export_format(file_format or "csv").write(found, sys.stdout.buffer)
        return
    written = export(found, to, file_format)
    print(f"{written}: {format_count(found.num_rows, 'row')} of {table}")


def _loaded(name: str, table: str) -> pa.Table:
    with damage_reported():
        if name.startswith(PREFIX):
            return load(name, table)
        return Store(data_root()).load(measured_run(name), table)


def _export_llama_bench(name: str, to: Path | None, table: str, where: Sequence[str], build: str | None) -> None:
    if table != "trials":
        raise UsageError(f"--table {table}: {LLAMA_BENCH} has no such table. Allowed with it: trials")
    found = llama_bench_file(_loaded(name, "trials"), _loaded(name, "devices"), where=where, build=build)
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
