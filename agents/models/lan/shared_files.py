"""The index of files that this device hands out: by SHA-256, and by the address or path that they came from.

In the store: ``offered/<sha256>.json`` names a file's path, with the size and modification time that it was verified
at: a file that was replaced since is handed out no more. ``origins/<key>.json`` lists the files of one address or path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agents.files import write_atomic
from agents.models.lan.protocol import HEX64, SharedFile, files_from_json, files_to_json
from agents.models.store.disk import recorded_sha256


def share(store: Path, path: Path, sha256: str) -> None:
    """Hands out ``path``, which was verified to have ``sha256``. A note that the disk cannot take is left out: then
    the others download the file."""
    with suppress(OSError):
        stat = path.stat()
        note = {"path": str(path.absolute()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        text = json.dumps(note).encode()
        note_path = _note_path(store, sha256)
        if not note_path.is_file() or note_path.read_bytes() != text:
            write_atomic(note_path, text)


def shared_path(store: Path, sha256: str) -> Path | None:
    """Path of the file with these contents; None where there is none, or it has changed since it was verified."""
    try:
        note = json.loads(_note_path(store, sha256).read_bytes())
        path = Path(note["path"])
        stat = path.stat()
        return path if (stat.st_size, stat.st_mtime_ns) == (note["size"], note["mtime_ns"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def share_store(store: Path) -> None:
    """Hands out all files with a recorded hash beside them, also those that an earlier version has fetched."""
    with suppress(OSError):
        for note in sorted(store.rglob(".*.gguf.sha256.json")):
            path = note.with_name(note.name.removeprefix(".").removesuffix(".sha256.json"))
            sha256 = recorded_sha256(path)
            if sha256 is not None and HEX64.fullmatch(sha256) and shared_path(store, sha256) is None:
                share(store, path, sha256)


def record_origin(store: Path, key: str, files: Sequence[SharedFile]) -> None:
    """Records that ``files`` came from the address or path that hashes to ``key`` (64 hex digits)."""
    with suppress(OSError):
        if files_from_origin(store, key) != tuple(files):
            write_atomic(_origin_path(store, key), files_to_json(files))


def files_from_origin(store: Path, key: str) -> tuple[SharedFile, ...] | None:
    """The files recorded for that address or path; None where there are none."""
    try:
        return files_from_json(_origin_path(store, key).read_bytes())
    except (OSError, ValueError):
        return None


def _note_path(store: Path, sha256: str) -> Path:
    return store / "offered" / f"{sha256}.json"


def _origin_path(store: Path, key: str) -> Path:
    return store / "origins" / f"{key}.json"
