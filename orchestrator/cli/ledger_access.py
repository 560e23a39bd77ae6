"""Where the coordinator's things lie, and which run a person means."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agents.places import data_root
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.dispatch.ledger.ledger import Ledger


def ledger_path(root: Path | None = None) -> Path:
    return (root or data_root()) / "ledger.sqlite"


@contextmanager
def no_coordinator_runs() -> Iterator[bool]:
    """Whether no coordinator works on this ledger; while this is entered, none begins."""
    from filelock import FileLock, Timeout

    if not data_root().exists():
        yield True
        return
    lock = FileLock(data_root() / "coordinator.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def open_ledger() -> Iterator[Ledger | None]:
    """None where there is no ledger yet: reading must not make one. Raises LedgerDamaged where it is gone."""
    from orchestrator.dispatch.home import check_ledger_there
    from orchestrator.dispatch.ledger.ledger import Ledger

    check_ledger_there(data_root())
    if not ledger_path().exists():
        yield None
        return
    with closing(Ledger(ledger_path())) as ledger:
        yield ledger


def runs_of_ledger() -> list[str]:
    """Run names, the newest first."""
    with open_ledger() as ledger:
        return [row.id for row in ledger.runs()] if ledger else []


def find_run(name: str) -> str:
    """A run's full name: as given, `latest`, or a beginning that only one run has. Raises UsageError."""
    return pick_run(name, runs_of_ledger())


def pick_run(name: str, runs: list[str]) -> str:
    """As ``find_run``, of ``runs``, the newest first."""
    if name == "latest" and runs:
        return runs[0]
    if name in runs:
        return name
    begins = [run for run in runs if run.startswith(name)]
    if len(begins) == 1:
        return begins[0]
    if begins:
        raise UsageError(f"run {name!r}: could be {', '.join(begins[:8])}")
    if not runs:
        raise UsageError(f"run {name!r}: there is no run yet under {data_root()}; `orchestrate submit FILE` makes one")
    close = difflib.get_close_matches(name, runs, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(f"run {name!r}: not found; {hint}runs: {', '.join(runs[:8])}{' ...' if len(runs) > 8 else ''}")
