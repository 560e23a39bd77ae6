"""A device says what it is about to fetch: a file in its store, which its model server reads for the others.

``fetching/<key>.json``, where the key is the SHA-256 of the file, or of the address where the file's is not known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from agents.files import write_atomic
from agents.models.lan.protocol import State
from agents.models.progress import Say
from agents.models.store.disk import size_of
from agents.models.store.transfer import library_folder_of

_SAME_START_S = 2.0  # what a process's start may be told apart by: a clock that was set meanwhile


@dataclass(frozen=True, slots=True)
class Announced:
    """What a process of this device says of a file. ``beat`` changes while something goes on."""

    state: State
    bytes_so_far: int
    beat: str


class Announcement:
    """Kept up to date by the process that fetches."""

    def __init__(self, path: Path, partial: Path) -> None:
        self._path = path
        self._partial = partial

    def now(self, state: State) -> None:
        """Raises OSError."""
        born = psutil.Process().create_time()
        note = {"pid": os.getpid(), "born": born, "state": state, "partial": str(self._partial.absolute())}
        write_atomic(self._path, json.dumps(note))

    def beating(self, say: Say) -> Say:
        """``say``, of which others see that something goes on: while a file is hashed no byte comes."""

        def said(words: str) -> None:
            with suppress(OSError):
                os.utime(self._path)
            say(words)

        return said


@contextmanager
def announced(store: Path, key: str, partial: Path) -> Iterator[Announcement]:
    """For as long as ``partial`` is being fetched. Raises OSError where the store cannot take the note."""
    announcement = Announcement(_path(store, key), partial)
    announcement.now(State.INTENDS)
    try:
        yield announcement
    finally:
        with suppress(OSError):
            _path(store, key).unlink(missing_ok=True)


def announced_here(store: Path, key: str) -> Announced | None:
    """What a living process of this device has announced."""
    path = _path(store, key)
    try:
        beat = path.stat().st_mtime_ns
        note = json.loads(path.read_bytes())
        if abs(psutil.Process(int(note["pid"])).create_time() - float(note["born"])) > _SAME_START_S:
            return None
        return Announced(State(note["state"]), _bytes_so_far(Path(note["partial"])), str(beat))
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None


def _bytes_so_far(partial: Path) -> int:
    """Of the file, or of what the hub's library keeps in a folder of its own."""
    done = size_of(partial)
    folder = library_folder_of(partial)
    if folder.is_dir():
        with suppress(OSError):
            done += sum(size_of(path) for path in folder.rglob("*"))
    return done


def _path(store: Path, key: str) -> Path:
    return store / "fetching" / f"{key}.json"
