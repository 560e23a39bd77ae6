"""Backups of the ledger: whole copies beside it, the last few of them, each read back before it counts as one."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

from agents.files import aside_of, make_private, remove_abandoned, rename_durably
from agents.log import Entry
from orchestrator.dispatch.ledger.file import NAME, LedgerError, check_pages, ledger_error

log = logging.getLogger(__name__)

FOLDER = "backups"
KEPT = 3

_NAME = re.compile(r"ledger-(\d{6,})-\d{8}T\d{6}Z\.sqlite")


def backups_of(root: Path) -> list[Path]:
    """The newest first: by their numbers, for a clock may have been set back between two of them."""
    folder = root / FOLDER
    found = [(int(name[1]), path) for path in _files(folder) if (name := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def back_up(ledger: Path, now: float | None = None) -> Path:
    """A new backup; of the older ones the last ``KEPT - 1`` stay. Writers are not held up. Raises LedgerError.

    100 ms for a ledger of 100,000 jobs. Two threads must not do it at the same time.
    """
    folder = ledger.parent / FOLDER
    older = backups_of(ledger.parent)
    number = int(_NAME.fullmatch(older[0].name)[1]) + 1 if older else 1  # type: ignore[index]  # backups_of matched it
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    target = folder / f"ledger-{number:06d}-{stamp}.sqlite"
    aside = aside_of(target)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        remove_abandoned(folder)
        copy_database(ledger, aside)
        check_pages(aside)
        rename_durably(aside, target)
    except OSError as error:
        raise ledger_error(target, "back up", error) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    for path in older[KEPT - 1 :]:
        with suppress(OSError):
            path.unlink()
    return target


def copy_database(source: Path, target: Path) -> None:
    """As one transaction saw it, with what its journal holds; ``target`` is for its owner alone. Raises LedgerError."""
    target.unlink(missing_ok=True)
    make_private(made=target)
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            db.execute("VACUUM INTO ?", (os.fspath(target),))
    except sqlite3.Error as error:
        raise ledger_error(source, "copy", error) from error


def newest_good(root: Path) -> Path | None:
    for path in backups_of(root):
        with suppress(LedgerError, OSError):
            check_pages(path)
            return path
    return None


class Backups:
    """One at each end of a run. ``problem``: why the last one could not be made; empty where it could.

    ``in_background``: on a thread of its own, for one takes as long as the ledger is large.
    """

    def __init__(self, root: Path, *, in_background: bool) -> None:
        self.problem = ""
        self._ledger = root / NAME
        self._in_background = in_background
        self._one = threading.Lock()

    def make(self) -> None:
        if self._in_background:
            threading.Thread(target=self._make, name="backup", daemon=True).start()
        else:
            self._make()

    def _make(self) -> None:
        with self._one:
            try:
                log.info(Entry("LedgerBackedUp", detail=back_up(self._ledger).name))
            except LedgerError as error:
                log.warning(Entry("LedgerNotBackedUp", detail=str(error)))
                self.problem = f"no backup of the ledger: {error}"
            else:
                self.problem = ""
