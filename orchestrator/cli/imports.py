"""``orchestrate import``: results of other tools, as runs of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from agents.places import data_root
from agents.units import format_size
from orchestrator.cli.ledger_access import runs_of_ledger
from orchestrator.cli.texts import format_count
from orchestrator.errors import UsageError
from orchestrator.matrix.problems import BadValue
from orchestrator.matrix.read import read_file
from orchestrator.results.foreign.importing import STDIN, ForeignFile, import_files
from orchestrator.results.foreign.mapping import read_mapping
from orchestrator.results.store import Store

MOST_BYTES = 256 * 1024**2


def import_results(
    files: Sequence[str], *, run: str | None, device: str | None, mapping: Path | None, as_json: bool
) -> None:
    """``-`` is standard input."""
    columns = read_mapping(mapping) if mapping else None
    found = [_foreign(file) for file in dict.fromkeys(files)]
    store = Store(data_root())
    done = import_files(store, found, run=run, device=device, mapping=columns, measured=runs_of_ledger())
    for each in done:
        if as_json:
            print(json.dumps(asdict(each)))
        elif each.added:
            what = f"{format_count(each.records, 'record')}, {format_count(each.trials, 'trial')}"
            print(f"run {each.run}: {what} imported from {each.file} ({each.kind})")
        else:
            print(f"run {each.run}: holds {each.file} already; nothing changed")
    if not as_json:
        print(f"see: orchestrate show {done[-1].run}")


def _foreign(file: str) -> ForeignFile:
    if file == "-":
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageError(f"{STDIN}: is larger than {format_size(MOST_BYTES)}")
        return ForeignFile(STDIN, data)
    try:
        return ForeignFile(file, read_file(Path(file), MOST_BYTES))
    except BadValue as error:
        raise UsageError(f"{file}: {error}") from None
