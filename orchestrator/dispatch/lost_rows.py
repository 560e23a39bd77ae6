"""Done jobs whose rows cannot be read: which they are, and how they become pending again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.dispatch.ledger import Ledger
from orchestrator.results.attempt_files import Damaged, Key, key_in_name
from orchestrator.results.store import Store


@dataclass(frozen=True, slots=True)
class LostRows:
    """Done jobs of a run whose current rows cannot be read.

    ``unreadable``: they stand, or may stand, in one of the ``damaged`` files. ``missing``: no file is left that could
    hold them. Those are not put back by themselves: the folder may lie on a disk that is not there now.
    """

    unreadable: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    damaged: tuple[Damaged, ...] = ()

    @property
    def job_ids(self) -> tuple[str, ...]:
        return (*self.unreadable, *self.missing)


def lost_rows(ledger: Ledger, store: Store, run_id: str) -> LostRows:
    """Reads every file of the run whole: seconds for a large one. Raises OrchestrateError."""
    checked = store.check(run_id)
    done = {(job.job_id, job.attempt): None for job in ledger.jobs(run_id) if job.state == "done"}
    gone = [key for key in done if key not in checked.keys]
    named = {key_in_name(each.path) for each in checked.damaged}
    # what a merged file held stands in itself alone: it may have been any of those that are nowhere else
    unreadable: list[Key] = [key for key in gone if key in named or None in named]
    missing = [key for key in gone if key not in set(unreadable)]
    return LostRows(tuple(job for job, _ in unreadable), tuple(job for job, _ in missing), checked.damaged)


def put_back_unreadable(ledger: Ledger, store: Store, lost: LostRows) -> list[Path]:
    """Jobs whose rows stood in a damaged file are pending again; where the damaged files are kept now.

    The ledger comes first: after a crash between, the files are found damaged once more, and their jobs pending.
    Raises OrchestrateError.
    """
    ledger.reopen_jobs(lost.unreadable)
    return [store.set_aside(each) for each in lost.damaged]
