"""Which files of this device may be handed out, by SHA-256, and which of them came from an address or a path.

In the store: ``offered/<sha256>.json`` says where a file lies, and for which size and time that holds: a file that is
another since is not offered. ``origins/<key>.json`` lists the files that came from one place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agents.files import write_atomic
from agents.models.lan.protocol import HEX64, SharedFile, files_from_json, files_to_json
from agents.models.store.disk import kept_digest


def offer(store: Path, path: Path, sha256: str) -> None:
    """``path`` has these contents, verified. A disk that cannot take the note costs the others a download."""
    with suppress(OSError):
        stat = path.stat()
        note = {"path": str(path.absolute()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        text = json.dumps(note).encode()
        kept = _offer_path(store, sha256)
        if not kept.is_file() or kept.read_bytes() != text:
            write_atomic(kept, text)


def offered(store: Path, sha256: str) -> Path | None:
    """Where the file with these contents lies; None where there is none, or it has changed since."""
    try:
        note = json.loads(_offer_path(store, sha256).read_bytes())
        path = Path(note["path"])
        stat = path.stat()
        return path if (stat.st_size, stat.st_mtime_ns) == (note["size"], note["mtime_ns"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def offer_the_store(store: Path) -> None:
    """Offers all files whose hash is kept beside them: those that an earlier version of this program fetched too."""
    with suppress(OSError):
        for note in sorted(store.rglob(".*.gguf.sha256.json")):
            path = note.with_name(note.name.removeprefix(".").removesuffix(".sha256.json"))
            sha256 = kept_digest(path)
            if sha256 is not None and HEX64.fullmatch(sha256) and offered(store, sha256) is None:
                offer(store, path, sha256)


def keep_origin(store: Path, key: str, files: Sequence[SharedFile]) -> None:
    """``files`` came from the place that ``key``, 64 hex digits, stands for."""
    with suppress(OSError):
        if from_origin(store, key) != tuple(files):
            write_atomic(_origin_path(store, key), files_to_json(files))


def from_origin(store: Path, key: str) -> tuple[SharedFile, ...] | None:
    """The files that came from there; None where nothing did."""
    try:
        return files_from_json(_origin_path(store, key).read_bytes())
    except (OSError, ValueError):
        return None


def _offer_path(store: Path, sha256: str) -> Path:
    return store / "offered" / f"{sha256}.json"


def _origin_path(store: Path, key: str) -> Path:
    return store / "origins" / f"{key}.json"
