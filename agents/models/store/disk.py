"""The store on the device's disk: room checked first, files written aside and renamed, one writer at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.contract.model_need import DISK_MARGIN_BYTES
from agents.contract.report import Cause
from agents.errors import LoadFailed, cause_of_os_error
from agents.files import remove_abandoned, write_atomic
from agents.models.progress import ByteProgress, Notify
from agents.units import format_size

_READ_BYTES = 4 << 20
WAIT_S = 1.0


def need_room(directory: Path, need_bytes: int, what: str) -> None:
    """Raises LoadFailed(DISK_FULL) unless ``directory``'s disk can take ``need_bytes`` and a margin."""
    with os_errors_named(f"cannot use the model store {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(directory).free
    if need_bytes + DISK_MARGIN_BYTES > free_bytes:
        raise LoadFailed(
            Cause.DISK_FULL,
            f"{what} needs {format_size(need_bytes)} (and {format_size(DISK_MARGIN_BYTES)} to spare), "
            f"but the disk of {directory} has {format_size(free_bytes)} free",
        )


def os_failure(error: OSError, doing: str) -> LoadFailed:
    """DISK_FULL where the disk, the quota or the file's allowed size is at its end, DISK_FAULT, else LOAD_FAILED."""
    cause = Cause.DISK_FULL if error.errno == errno.EFBIG else cause_of_os_error(error)
    return LoadFailed(cause or Cause.LOAD_FAILED, f"{doing}: {error.strerror or error}")


@contextmanager
def os_errors_named(doing: str) -> Iterator[None]:
    """An OSError inside becomes ``os_failure``."""
    try:
        yield
    except OSError as error:
        raise os_failure(error, doing) from error


@contextmanager
def locked(target: Path, notify: Notify) -> Iterator[None]:
    """One process of this device at a time makes ``target``: the agent's job process and a command on the same machine
    may want one file. The lock is the kernel's and ends with its holder. What a killed one wrote aside is removed.
    """
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        while not lock.is_locked:
            notify(f"waiting for another process that makes {target.name}")  # raises where the job is cancelled
            with suppress(Timeout):
                lock.acquire(timeout=WAIT_S)
    try:
        remove_abandoned(target.parent)
        yield
    finally:
        lock.release()


def sha256_of(path: Path, notify: Notify, side_folder: Path | None = None) -> str:
    """SHA-256 of a file, hex. Hashed once: a side file keeps it, with the size and time that it holds for.

    ``side_folder`` is the directory of the side file; None: beside the file.
    """
    recorded = recorded_sha256(path, side_folder)
    if recorded is not None:
        return recorded
    sha256 = hash_file(path, notify)
    record_sha256(path, sha256, side_folder)
    return sha256


def verified_sha256(
    path: Path, sha256: str | None, stated_by: str, notify: Notify, side_folder: Path | None = None
) -> str:
    """``sha256_of``; raises LoadFailed(MODEL_FILE_INVALID) where that is not the one that ``stated_by`` names."""
    digest = sha256_of(path, notify, side_folder)
    if digest != (sha256 or digest):
        raise LoadFailed(
            Cause.MODEL_FILE_INVALID,
            f"{path} has SHA-256 {digest}, but {stated_by} says {sha256}: damaged, delete it to fetch it again",
        )
    return digest


def hash_file(path: Path, notify: Notify, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of a file, hex, read from end to end. ``on_bytes`` is called after each block with the bytes read."""
    progress = ByteProgress(notify, f"checking {path.name}", path.stat().st_size)
    digest = hashlib.sha256()
    done_bytes = 0
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            done_bytes += len(block)
            progress.update(done_bytes)
            on_bytes(done_bytes)
    return digest.hexdigest()


def record_sha256(path: Path, sha256: str, side_folder: Path | None = None) -> None:
    """Writes the side file. A store that cannot take it costs another hashing, nothing else."""
    stat = path.stat()
    note = json.dumps({"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256})
    with suppress(OSError):
        write_atomic(_side_file(path, side_folder), note)


def recorded_sha256(path: Path, side_folder: Path | None = None) -> str | None:
    """SHA-256 of a file from its side file; None where there is none, or the file is another since, or gone."""
    try:
        stat = path.stat()
        note = json.loads(_side_file(path, side_folder).read_bytes())
        is_current = note["size"] == stat.st_size and note["mtime_ns"] == stat.st_mtime_ns
        return str(note["sha256"]) if is_current else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _side_file(path: Path, side_folder: Path | None) -> Path:
    return (side_folder or path.parent) / f".{path.name}.sha256.json"
