"""Files that are whole or not there: written beside their name, flushed to the disk, renamed.

The order matters for a loss of power: first the bytes (fsync of the file), then the name (rename), then the folder
that holds the name (fsync of the folder). Without the first, ext4 and APFS may show the new name with no bytes in it.
All functions raise OSError and leave the old file as it was.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_ASIDE = re.compile(r"\..+\.(\d+)\.tmp")


def aside_of(path: Path) -> Path:
    """``.NAME.PID.tmp`` beside ``path``: hidden from globs for the name, and its writer can be found."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_atomic(path: Path, content: bytes | str, *, mode: int | None = None, flush: bool = True) -> None:
    """Makes ``path`` hold ``content`` (a string as UTF-8) and its folder exist. See ``atomic_file``."""
    with atomic_file(path, mode=mode, flush=flush) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path, *, mode: int | None = None, flush: bool = True) -> Iterator[BinaryIO]:
    """A file that becomes ``path`` when the block ends well, and vanishes when it does not.

    It has ``mode`` from its first byte on, so that a secret is never readable by others. After the block ``path``
    survives a loss of power, but for ``flush=False``. Two threads must not write one path at the same time.
    """
    aside = aside_of(path)
    make_folder(path.parent)
    try:
        with os.fdopen(_created(aside, 0o666 if mode is None else mode), "wb") as file:
            if mode is not None:
                aside.chmod(mode)  # what the umask took away
            yield file
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.replace(aside, path)  # noqa: PTH105  one call to replace in a fault-injection test, as os.fsync
        if flush:
            flush_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def _created(path: Path, mode: int) -> int:
    """A new file: a leftover of a dead process of the same number would keep its mode."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, mode)
    except FileExistsError:
        path.unlink()
        return os.open(path, flags, mode)


def rename_durably(source: Path, target: Path) -> None:
    """For a file that was written elsewhere, in the folder of ``target``: its bytes to the disk, then its name."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(target)
    flush_folder(target.parent)


def make_folder(folder: Path) -> None:
    """``folder`` and what is missing above it, each entered durably in the one above."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        flush_folder(each.parent)


def make_private(*paths: Path, made: Path | None = None) -> None:
    """Takes all rights of others from those of ``paths`` that are there; ``made`` is made without, where it is not.

    What may not be changed stays as it is: a folder of somebody else, or one that many share (the sticky bit).
    """
    if made is not None:
        with suppress(FileExistsError):
            os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    for path in paths if os.name == "posix" else ():
        with suppress(OSError):
            mode = path.stat().st_mode
            if mode & 0o077 and not mode & stat.S_ISVTX:
                path.chmod(stat.S_IMODE(mode) & ~0o077)


def flush_folder(folder: Path) -> None:
    """Makes renames inside ``folder`` durable. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_abandoned(folder: Path) -> None:
    """Removes what writers that died left in ``folder``; one that still runs keeps its file."""
    import psutil

    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _ASIDE.fullmatch(path.name)
        if found and not psutil.pid_exists(int(found[1])):
            with suppress(OSError):
                path.unlink(missing_ok=True)
