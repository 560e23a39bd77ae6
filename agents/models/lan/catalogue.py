"""What this device can hand out of what another one asks for: by SHA-256, by address, or by a path on its disk."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agents.errors import AgentError
from agents.models.lan.announcement import ongoing_fetch
from agents.models.lan.protocol import FileStatus, SharedFile
from agents.models.lan.shared_files import files_from_origin, share, shared_path
from agents.models.store.disk import hash_file, record_sha256, recorded_sha256, size_of
from agents.models.store.files import ModelFiles, absolute, files_at


@dataclass(frozen=True, slots=True)
class Availability:
    """The answer to a question: ``path`` is set for one by SHA-256, ``files`` for one by address or path."""

    status: FileStatus
    bytes_so_far: int = 0
    beat: str = ""
    path: Path | None = None
    files: tuple[SharedFile, ...] = ()


ABSENT = Availability(FileStatus.LACKS)


def path_key(path: str, mmproj: str | None) -> str:
    """The key of a path, with the projector asked for, in ``origins/``."""
    return hashlib.sha256(f"path\n{path}\n{mmproj or ''}".encode("utf-8", "surrogatepass")).hexdigest()


class Catalogue:
    """Answers from the store's index and from the disk. A file without a recorded hash is hashed in a thread, one file
    at a time, while nothing is measured."""

    def __init__(self, store: Path, is_measuring: Callable[[], bool], pause: Callable[[], bool]) -> None:
        """``pause`` blocks while a benchmark is measured; it returns False where the server is being closed."""
        self._store = store
        self._is_measuring = is_measuring
        self._pause = pause
        self._lock = threading.Lock()
        self._hashing: dict[Path, int] = {}  # bytes read so far
        self._unreadable: dict[Path, int] = {}  # modification time (ns) at which hashing failed
        self._one_at_a_time = threading.Lock()

    def by_contents(self, sha256: str) -> Availability:
        # The index is read twice: a fetch that ends between the two reads shares its file, then withdraws its
        # announcement, so that one of the two is always seen.
        return self._shared(sha256) or self._announced(sha256) or self._shared(sha256) or ABSENT

    def by_address(self, key: str) -> Availability:
        return self._available_from(key) or self._announced(key) or self._available_from(key) or ABSENT

    def at_path(self, path: str, mmproj: str | None) -> Availability:
        """The parts of the model at ``path``, and its projector. Whole GGUF files at absolute paths alone are found."""
        there = _is_model_path(path)
        if self._is_measuring():
            is_here = there or self._shared_from_origin(path_key(path, mmproj))
            return Availability(FileStatus.MEASURES) if is_here else ABSENT
        if there:
            with suppress(AgentError, OSError, ValueError):
                return self._files_of(files_at(path, mmproj))
        files = self._shared_from_origin(path_key(path, mmproj))
        return Availability(FileStatus.HAS, files=files) if files else ABSENT

    def _shared_from_origin(self, key: str) -> tuple[SharedFile, ...] | None:
        files = files_from_origin(self._store, key)
        return files if files and all(shared_path(self._store, file.sha256) for file in files) else None

    def _shared(self, sha256: str) -> Availability | None:
        path = shared_path(self._store, sha256)
        if path is None:
            return None
        return Availability(self._has_or_measures(), size_of(path), path=path)

    def _available_from(self, key: str) -> Availability | None:
        files = self._shared_from_origin(key)
        return Availability(self._has_or_measures(), files=files) if files else None

    def _has_or_measures(self) -> FileStatus:
        return FileStatus.MEASURES if self._is_measuring() else FileStatus.HAS

    def _announced(self, key: str) -> Availability | None:
        here = ongoing_fetch(self._store, key)
        return Availability(here.status, here.bytes_so_far, here.beat) if here else None

    def _files_of(self, model: ModelFiles) -> Availability:
        paths = [*(model.facts.parts if model.facts else (model.path,)), *([model.mmproj] if model.mmproj else [])]
        if any(path.suffix.lower() != ".gguf" for path in paths):
            return ABSENT
        digests = [recorded_sha256(path, self._notes_of(path)) for path in paths]
        unknown = [path for path, digest in zip(paths, digests, strict=True) if digest is None]
        if unknown:
            return self._hash_in_background(unknown)
        files = []
        for path, sha256 in zip(paths, digests, strict=True):
            assert sha256 is not None
            share(self._store, path, sha256)
            files.append(SharedFile(path.name, size_of(path), sha256))
        return Availability(FileStatus.HAS, files=tuple(files))

    def _hash_in_background(self, unknown: list[Path]) -> Availability:
        with self._lock:
            if any(self._unreadable.get(path) == _changed_ns(path) for path in unknown):
                return ABSENT
            begin = [path for path in unknown if path not in self._hashing]
            self._hashing.update(dict.fromkeys(begin, 0))
            read = sum(self._hashing[path] for path in unknown)
        if begin:
            threading.Thread(target=self._hash, args=(begin,), name="model-hash", daemon=True).start()
        return Availability(FileStatus.READS, read)

    def _hash(self, paths: list[Path]) -> None:
        with self._one_at_a_time:
            for path in paths:
                self._hash_one(path)

    def _hash_one(self, path: Path) -> None:
        def read(done_bytes: int) -> None:
            self._hashing[path] = done_bytes
            if not self._pause():
                raise OSError("the server is being closed")

        try:
            notes = self._notes_of(path)
            notes.mkdir(parents=True, exist_ok=True)
            sha256 = hash_file(path, lambda _: None, read)
            record_sha256(path, sha256, notes)
            if recorded_sha256(path, notes) is None:  # full disk, or the file changed meanwhile: else hashed for ever
                self._unreadable[path] = _changed_ns(path)
        except OSError:
            self._unreadable[path] = _changed_ns(path)
        finally:
            with self._lock:
                del self._hashing[path]

    def _notes_of(self, path: Path) -> Path:
        """The folder of the side file with the hash: beside a file of the store, in the store for any other file."""
        if path.is_relative_to(self._store.absolute()):
            return path.parent
        folder = hashlib.sha256(str(path.parent).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._store / "hashes" / folder


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1


def _is_model_path(path: str) -> bool:
    """Whether it is an absolute path, or one under a home, of an existing file that ends in .gguf."""
    if not path.lower().endswith(".gguf") or not (path.startswith("~") or Path(path).is_absolute()):
        return False
    try:
        return absolute(path).is_file()
    except (AgentError, OSError, ValueError):
        return False
