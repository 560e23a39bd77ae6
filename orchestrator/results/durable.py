"""Files that are whole or not there: written aside, flushed to the disk, renamed. Errors named by what follows.

::

    OrchestrateError
    └── StoreError              the results folder cannot be used; nothing half written is left
        ├── StoreFull           no space: free some, then resume
        └── StoreNotWritable    rights or a read-only disk
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import OrchestrateError

_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")


class StoreError(OrchestrateError):
    pass


class StoreFull(StoreError):
    pass


class StoreNotWritable(StoreError):
    pass


def _named(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"{path.parent}: no space left; free some and run `orchestrate resume`")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreNotWritable(f"{path.parent}: cannot be written: {error.strerror}")
    return StoreError(f"{path}: {error.strerror or error}")


@contextmanager
def written_aside(path: Path, *, flush: bool = True) -> Iterator[BinaryIO]:
    """A file that becomes ``path`` when the block ends well, and vanishes when it does not.

    After the block ``path`` survives a loss of power (but for ``flush=False``). Raises StoreFull,
    StoreNotWritable or StoreError; ``path`` is then as it was before.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make_folder(path.parent)
        with aside.open("wb") as file:
            yield file
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.replace(aside, path)  # noqa: PTH105  one call to replace in a fault-injection test, as os.fsync
        if flush:
            flush_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _named(error, path) from error
        raise


def make_folder(folder: Path) -> None:
    """``folder`` and what is missing above it, each entered durably in the one above."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        flush_folder(each.parent)


def flush_folder(folder: Path) -> None:
    """Makes renames inside ``folder`` durable. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Raises StoreError and the like; a file that is gone already is well."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _named(error, path) from error


def clean(folder: Path) -> None:
    """Removes what a crashed writer left aside in ``folder``; a writer that still runs keeps its file."""
    import psutil

    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found and not psutil.pid_exists(int(found[1])):
            with suppress(OSError):
                path.unlink(missing_ok=True)
