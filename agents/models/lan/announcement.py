"""What this device is fetching, as the other devices learn it.

The job process fetches, but the agent's model server answers the others: two processes. So the job process keeps a
note in the store, ``fetching/<key>.json``, and the server reads it at each question. The key is the SHA-256 of the
model file, or of its address where that of the file is not known. A job process that is killed leaves its note behind;
therefore the note names the process and its start, and counts only while that process lives.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from agents.files import write_atomic
from agents.models.lan.protocol import FileStatus
from agents.models.progress import Notify
from agents.models.store.disk import size_of
from agents.models.store.transfer import library_folder_of

_SAME_START_S = 0.1
"""Two starts of one process number are the same process within this. Kernels count in ticks of 0.01 s or less."""


@dataclass(frozen=True, slots=True)
class OngoingFetch:
    """What a living process of this device has announced. ``beat`` changes while it makes progress."""

    status: FileStatus
    bytes_so_far: int
    beat: str


class Announcement:
    """The note of one fetch, written by the process that fetches."""

    def __init__(self, path: Path, partial: Path) -> None:
        self._path = path
        self._partial = partial

    def announce(self, status: FileStatus) -> None:
        """Replaces the note. Raises OSError where the store cannot take it."""
        born = started_s(psutil.Process())
        note = {"pid": os.getpid(), "born": born, "state": status, "partial": str(self._partial.absolute())}
        write_atomic(self._path, json.dumps(note))

    def with_beat(self, notify: Notify) -> Notify:
        """``notify`` that renews the beat too: while a file is hashed, no byte comes that would show progress."""

        def notify_and_beat(words: str) -> None:
            with suppress(OSError):
                os.utime(self._path)
            notify(words)

        return notify_and_beat


@contextmanager
def announcing(store: Path, key: str, partial: Path) -> Iterator[Announcement]:
    """Announces a fetch into ``partial`` for as long as the context lasts, first as INTENDS. Raises OSError."""
    announcement = Announcement(_path(store, key), partial)
    announcement.announce(FileStatus.INTENDS)
    try:
        yield announcement
    finally:
        with suppress(OSError):
            _path(store, key).unlink(missing_ok=True)


def ongoing_fetch(store: Path, key: str) -> OngoingFetch | None:
    """What is being fetched here under ``key``; None where nothing is, or where its process has died."""
    path = _path(store, key)
    try:
        beat = path.stat().st_mtime_ns
        note = json.loads(path.read_bytes())
        if abs(started_s(psutil.Process(int(note["pid"]))) - float(note["born"])) > _SAME_START_S:
            return None
        return OngoingFetch(FileStatus(note["state"]), _bytes_so_far(Path(note["partial"])), str(beat))
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None


def started_s(process: psutil.Process) -> float:
    """When a process was started, on a clock that nobody sets: on Linux its seconds since the boot."""
    # There psutil adds the time of the boot to them, which the kernel moves with each setting of the wall clock.
    return process.create_time() - (psutil.boot_time() if sys.platform == "linux" else 0.0)


def _bytes_so_far(partial: Path) -> int:
    """Bytes of the partial file, and of the folder in which the hub's library keeps what it downloads."""
    done = size_of(partial)
    folder = library_folder_of(partial)
    if folder.is_dir():
        with suppress(OSError):
            done += sum(size_of(path) for path in folder.rglob("*"))
    return done


def _path(store: Path, key: str) -> Path:
    return store / "fetching" / f"{key}.json"
