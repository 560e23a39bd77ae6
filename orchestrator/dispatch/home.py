"""A coordinator's home, the data root: one coordinator alone works there, its ledger is whole, and no other user reads
it."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from agents.files import make_private
from orchestrator.dispatch.ledger.backup import backups_of
from orchestrator.dispatch.ledger.file import MEND, NAME, LedgerDamaged, check_pages
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.ledger.record import recorded_runs
from orchestrator.errors import OrchestrateError


class HomeLocked(OrchestrateError):
    """A coordinator, or a repair, works there."""


LOCK = "coordinator.lock"
LOCK_S = 2.0  # the coordinator before may be on its way out
LOOP_BUSY_S = 0.4
"""How long the coordinator's loop waits for another program that holds the ledger, before it looks after the rest."""


def lock_home(root: Path) -> FileLock:
    """Held by the one coordinator, or a repair. Raises HomeLocked where another holds it, OrchestrateError else."""
    path = root / LOCK
    lock = FileLock(path)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_S)
    except Timeout as error:
        raise HomeLocked(
            f"another coordinator works on {root}: a submit that started its own cluster, a head on this machine,"
            " or a repair. Wait for it, or start a head, which takes many runs: orchestrate head"
        ) from error
    except OSError as error:
        raise OrchestrateError(f"{path}: cannot be written: {error.strerror or error}") from error
    return lock


def make_home_private(root: Path) -> None:
    """The root, and the files in it: ledger, logs, settings. They may hold addresses of models with their passwords."""
    make_private(root, *(path for path in root.iterdir() if path.is_file() and not path.is_symlink()))


def check_ledger_there(root: Path) -> None:
    """Raises LedgerDamaged where the ledger is gone, and was there: a new one would know of no run."""
    path = root / NAME
    if path.exists() and path.stat().st_size:
        return
    if backups_of(root) or recorded_runs(root):
        raise LedgerDamaged(f"{path}: the ledger is gone; {MEND}")


def open_ledger(root: Path, busy_s: float) -> Ledger:
    """As a coordinator opens it: whole, or new where there was none. Raises LedgerError, OrchestrateError."""
    path = root / NAME
    check_ledger_there(root)
    if path.exists() and path.stat().st_size:
        check_pages(path)
    return Ledger(path, busy_s=busy_s)
