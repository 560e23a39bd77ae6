"""Atomic files of the results folder; their errors are named by what follows.

::

    OrchestrateError
    └── StoreError              the results folder cannot be used; nothing half written stays
        ├── StoreFull           no space: free some, then resume
        └── StoreNotWritable    rights or a read-only disk
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agents.files import atomic_file
from orchestrator.errors import OrchestrateError


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
def durable_file(path: Path, *, flush: bool = True) -> Iterator[BinaryIO]:
    """``agents.files.atomic_file`` that raises StoreFull, StoreNotWritable or StoreError."""
    try:
        with atomic_file(path, flush=flush) as file:
            yield file
    except OSError as error:
        raise _named(error, path) from error


def remove(path: Path) -> None:
    """Raises StoreError and the like; a file that is gone already is well."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _named(error, path) from error
