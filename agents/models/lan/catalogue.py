"""What this device has of what another one asks for: by contents, by address, or by a path outside of the store."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agents.errors import AgentError
from agents.models.lan.announcement import announced_here
from agents.models.lan.protocol import SharedFile, State
from agents.models.lan.shared_files import from_origin, offer, offered
from agents.models.store.disk import hashed, keep_digest, kept_digest, size_of
from agents.models.store.files import ModelFiles, absolute, files_at


@dataclass(frozen=True, slots=True)
class Found:
    """``path`` is the file where it was asked for by its contents, ``files`` what lies at a place."""

    state: State
    bytes_so_far: int = 0
    beat: str = ""
    path: Path | None = None
    files: tuple[SharedFile, ...] = ()


LACKED = Found(State.LACKS)


def path_key(path: str, mmproj: str | None) -> str:
    """Names a path (and the projector that goes with the model) in ``origins/``."""
    return hashlib.sha256(f"path\n{path}\n{mmproj or ''}".encode("utf-8", "surrogatepass")).hexdigest()


class Finder:
    """Looks in the store, and at paths; hashes what has no kept hash in one thread, ``pause`` permitting."""

    def __init__(self, store: Path, busy: Callable[[], bool], pause: Callable[[], bool]) -> None:
        """``pause`` returns when nothing is being measured: True, or False where the server is being closed."""
        self._store = store
        self._busy = busy
        self._pause = pause
        self._lock = threading.Lock()
        self._hashing: dict[Path, int] = {}  # bytes read so far
        self._unreadable: dict[Path, int] = {}  # by the time of the file that could not be read
        self._one_at_a_time = threading.Lock()

    def by_contents(self, sha256: str) -> Found:
        # Looked at twice: a fetch ends by offering the file and then taking its announcement back.
        return self._offered(sha256) or self._announced(sha256) or self._offered(sha256) or LACKED

    def by_address(self, key: str) -> Found:
        return self._known_from(key) or self._announced(key) or self._known_from(key) or LACKED

    def at_path(self, path: str, mmproj: str | None) -> Found:
        """Files that end in .gguf and are whole ones: the model's parts, and the projector. Absolute paths alone."""
        there = _looks_right(path)
        if self._busy():
            return Found(State.MEASURES) if there or self._from_origin(path_key(path, mmproj)) else LACKED
        if there:
            with suppress(AgentError, OSError, ValueError):
                return self._lying_at(files_at(path, mmproj))
        files = self._from_origin(path_key(path, mmproj))
        return Found(State.HAS, files=files) if files else LACKED

    def _from_origin(self, key: str) -> tuple[SharedFile, ...] | None:
        files = from_origin(self._store, key)
        return files if files and all(offered(self._store, file.sha256) for file in files) else None

    def _offered(self, sha256: str) -> Found | None:
        path = offered(self._store, sha256)
        if path is None:
            return None
        return Found(State.MEASURES if self._busy() else State.HAS, size_of(path), path=path)

    def _known_from(self, key: str) -> Found | None:
        files = self._from_origin(key)
        return Found(State.MEASURES if self._busy() else State.HAS, files=files) if files else None

    def _announced(self, key: str) -> Found | None:
        here = announced_here(self._store, key)
        return Found(here.state, here.bytes_so_far, here.beat) if here else None

    def _lying_at(self, model: ModelFiles) -> Found:
        paths = [*(model.facts.parts if model.facts else (model.path,)), *([model.mmproj] if model.mmproj else [])]
        if any(path.suffix.lower() != ".gguf" for path in paths):
            return LACKED
        digests = [kept_digest(path, self._notes_of(path)) for path in paths]
        unknown = [path for path, digest in zip(paths, digests, strict=True) if digest is None]
        if unknown:
            return self._hash_aside(unknown)
        files = []
        for path, sha256 in zip(paths, digests, strict=True):
            assert sha256 is not None
            offer(self._store, path, sha256)
            files.append(SharedFile(path.name, size_of(path), sha256))
        return Found(State.HAS, files=tuple(files))

    def _hash_aside(self, unknown: list[Path]) -> Found:
        with self._lock:
            if any(self._unreadable.get(path) == _changed_ns(path) for path in unknown):
                return LACKED
            begin = [path for path in unknown if path not in self._hashing]
            self._hashing.update(dict.fromkeys(begin, 0))
            read = sum(self._hashing[path] for path in unknown)
        if begin:
            threading.Thread(target=self._hash, args=(begin,), name="model-hash", daemon=True).start()
        return Found(State.READS, read)

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
            sha256 = hashed(path, lambda _: None, read)
            keep_digest(path, sha256, notes)
            if kept_digest(path, notes) is None:  # a full disk, or a file that changes: hashed for ever otherwise
                self._unreadable[path] = _changed_ns(path)
        except OSError:
            self._unreadable[path] = _changed_ns(path)
        finally:
            with self._lock:
                del self._hashing[path]

    def _notes_of(self, path: Path) -> Path:
        """Where the hash of a file outside of the store is kept; one of the store has it beside it."""
        if path.is_relative_to(self._store.absolute()):
            return path.parent
        folder = hashlib.sha256(str(path.parent).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._store / "hashes" / folder


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1


def _looks_right(path: str) -> bool:
    """An absolute path, or one under a home, that ends in .gguf and is there."""
    if not path.lower().endswith(".gguf") or not (path.startswith("~") or Path(path).is_absolute()):
        return False
    try:
        return absolute(path).is_file()
    except (AgentError, OSError, ValueError):
        return False
