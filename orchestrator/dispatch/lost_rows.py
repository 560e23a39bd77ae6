"""Done jobs whose rows cannot be read: which they are, and how they become pending again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.log import Entry, suppressed
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.results.attempt_files import Damaged
from orchestrator.results.durable import StoreError
from orchestrator.results.store import Store

log = logging.getLogger(__name__)

SHOWN_FILES = 8


@dataclass(frozen=True, slots=True)
class LostRows:
    """Done jobs of a run whose current rows cannot be read.

    ``unreadable``: they stand, or may stand, in one of the ``damaged`` files, or their file is gone from among others.
    ``missing``: no file of the run is there at all. Those are not put back by themselves: the folder may lie on a disk
    that is not mounted now.
    """

    unreadable: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    damaged: tuple[Damaged, ...] = ()

    @property
    def job_ids(self) -> tuple[str, ...]:
        return (*self.unreadable, *self.missing)


def lost_rows(ledger: Ledger, store: Store, run_id: str) -> LostRows:
    """Reads every file of the run whole: seconds for a large one. From any thread. Raises OrchestrateError."""
    # the ledger first: what it has as done was in a file before, so a job that ends meanwhile is not taken for lost
    done = [(job.job_id, job.attempt) for job in ledger.jobs(run_id) if job.state == "done"]
    checked = store.check(run_id)
    gone = tuple(job_id for job_id, attempt in done if (job_id, attempt) not in checked.keys)
    if not checked.keys and not checked.damaged:
        return LostRows(missing=gone)
    return LostRows(unreadable=gone, damaged=checked.damaged)


def put_back_unreadable(ledger: Ledger, store: Store, run_id: str, lost: LostRows) -> str:
    """Jobs whose rows are unreadable are pending again in the ledger; what was done, for people.

    The ledger comes first: after a crash between, the files are found damaged once more, and their jobs pending.
    Raises OrchestrateError.
    """
    ledger.reopen_jobs(lost.unreadable)
    text = _describe(lost, [store.set_aside(each) for each in lost.damaged])
    log.warning(Entry("RowsUnreadable", run=run_id, detail=text))
    return text


def put_back_in_open_runs(ledger: Ledger, store: Store) -> None:
    """Before the runs that are not complete go on."""
    for row in ledger.runs():
        if row.remaining:
            with suppressed(log, "RowsNotChecked", StoreError, run=row.id):
                lost = lost_rows(ledger, store, row.id)
                if lost.unreadable or lost.damaged:
                    put_back_unreadable(ledger, store, row.id, lost)


def _describe(lost: LostRows, kept: Sequence[Path]) -> str:
    count = len(lost.unreadable)
    jobs = (
        f"rows of {count} done {'job' if count == 1 else 'jobs'} cannot be read: what they were is measured again"
        if count
        else "damaged files of the run held no row of a done job"
    )
    return f"{jobs}; damaged files are kept: {', '.join(map(str, kept[:SHOWN_FILES]))}" if kept else jobs
