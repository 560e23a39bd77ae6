"""A run as the reading commands have it: its rows, and what the ledger knows of it, where that can be read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from agents.places import data_root
from orchestrator.cli.ledger_access import ledger_path, open_ledger, pick_run
from orchestrator.cli.texts import format_count
from orchestrator.dispatch.ledger.file import LedgerError
from orchestrator.dispatch.ledger.ledger import Ledger, RunRow
from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.results.attempt_files import Damaged, Key, Read, key_in_name
from orchestrator.results.store import Store

T = TypeVar("T")

SHOWN_FILES = 8


@dataclass(frozen=True, slots=True)
class RunRows:
    """``complaint``: the rows that cannot be read, and what to do; empty for none."""

    table: pa.Table
    complaint: str


def from_ledger(read: Callable[[Ledger], T], otherwise: T) -> T:
    """``otherwise`` where there is no ledger, or it cannot be read: the rows can be read all the same."""
    try:
        with open_ledger() as ledger:
            return otherwise if ledger is None else read(ledger)
    except LedgerError:
        return otherwise


def ledger_rows() -> dict[str, RunRow]:
    """The runs that the ledger knows, the newest first; none where it cannot be read."""
    return from_ledger(lambda ledger: {row.id: row for row in ledger.runs()}, {})


def warn_of_unknown_runs(runs: Sequence[str], *, if_never_there: bool = True) -> None:
    """One line on stderr on measured runs that the ledger does not know: what is therefore unknown.

    ``if_never_there``: also where there is no ledger, and no trace of one.
    """
    known = ledger_rows()
    unknown = [run for run in runs if run not in known and not _is_imported(run)]
    why = _why_unknown(if_never_there=if_never_there) if unknown else ""
    if why:
        which = ", ".join(unknown[:SHOWN_FILES]) + (" ..." if len(unknown) > SHOWN_FILES else "")
        print(
            f"warning: {why}. Unknown of {which}: how many jobs remain, and whether all rows are there."
            " Rows are read from runs/",
            file=sys.stderr,
        )


def _why_unknown(*, if_never_there: bool) -> str:
    try:
        with open_ledger() as ledger:
            if ledger is None and not if_never_there:
                return ""
            there = "there is no ledger" if ledger is None else "the ledger does not know all runs"
            return f"{ledger_path()}: {there}; `orchestrate repair` makes it from runs/"
    except LedgerError as error:
        return str(error)


def _is_imported(run: str) -> bool:
    """Imported runs are in no ledger."""
    origins = Store(data_root()).read(run, columns=["origin"]).table.column("origin").unique().to_pylist()
    return bool(origins) and "measured" not in origins


def measured_run(name: str) -> str:
    """``find_run``, of a run that holds at least one result; imported ones too, and those that the ledger has lost.

    Raises UsageError.
    """
    store = Store(data_root())
    there, known = store.runs(), list(ledger_rows())
    others = [run for run in there if run not in known]
    if name == "latest":  # an imported run is not what somebody means by that
        others = [] if known else sorted(others, key=lambda run: store.run_folder(run).stat().st_mtime_ns, reverse=True)
        others = [run for run in others if not _is_imported(run)]
    run = pick_run(name, [*known, *others])
    if run not in there:
        raise UsageError(f"run {run}: nothing is measured yet; go on with: orchestrate resume {run}")
    return run


def read_run(run: str, table: str = "trials", *, all_attempts: bool = False) -> RunRows:
    """One table of a run, with what is known to be missing in it."""
    # the ledger first: what it has as done was in a file before, so a job that ends meanwhile is not taken for lost
    done = from_ledger(lambda ledger: done_keys(ledger, run), None)
    read = Store(data_root()).read(run, table, all_attempts=all_attempts)
    for each in read.damaged:
        print(f"warning: {each}", file=sys.stderr)
    return RunRows(read.table, complaint_of(run, read, None if table == "devices" else done))


def done_keys(ledger: Ledger, run: str) -> frozenset[Key]:
    return frozenset((job.job_id, job.attempt) for job in ledger.jobs(run) if job.state == "done")


def complaint_of(run: str, read: Read, done: frozenset[Key] | None) -> str:
    """``done``: the jobs that the ledger has as done, with their attempts; None where it does not know. PURE"""
    gone = len(done - read.keys) if done else sum(key_in_name(each.path) not in read.keys for each in read.damaged)
    if not gone:  # what the damaged files held is in others too
        return ""
    least = "" if done or all(key_in_name(each.path) for each in read.damaged) else "at least "
    verb = f"{least}{format_count(gone, 'row')} cannot be read"
    them = "it" if gone == 1 else "them"
    why = _files(read.damaged) or f"no file holds {them}"
    return f"run {run}: {verb}: {why}; measure {them} again with: orchestrate resume {run}"


def _files(damaged: Sequence[Damaged]) -> str:
    shown = "; ".join(f"{each.path}: {each.why}" for each in damaged[:SHOWN_FILES])
    return shown + (f"; and {len(damaged) - SHOWN_FILES} more files" if len(damaged) > SHOWN_FILES else "")


def raise_complaints(complaints: Sequence[str]) -> None:
    """After what can be read was printed. Raises OrchestrateError where anything is missing."""
    if found := [each for each in complaints if each]:
        raise OrchestrateError("; ".join(found))
