"""Models from Hugging Face: listed, picked, fetched into the store, verified; from the store alone without a network.

In the store: ``hf/OWNER--NAME/<digest>/<file>``, where the digest is that of the model's contents: a new commit that
does not change the file costs nothing, and one that does leaves the old one in its place. ``listings/`` keeps what
each revision held. What other programs have put into the Hugging Face cache is used where it lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agents.contract.model_peers import Peers
from agents.errors import LoadFailed
from agents.models.gguf.check import check_model, check_projector
from agents.models.hub.download import RemoteRepo, download
from agents.models.hub.listing import HubRequest, Listing, listing_of, stored_listing
from agents.models.hub.pick import RemoteFile, pick_mmproj, pick_model
from agents.models.lan.download import WantedFile, download_once
from agents.models.lan.shared_files import share
from agents.models.progress import ByteProgress, Notify
from agents.models.store.disk import locked, need_room, os_errors_named, size_of, verified_sha256
from agents.models.store.files import MissingFile, ModelFiles
from agents.models.store.transfer import partial_of


@dataclass(frozen=True, slots=True)
class _Picked:
    """Files that belong side by side, and the directory of the store where they go."""

    files: tuple[RemoteFile, ...]
    directory: Path

    def missing(self) -> tuple[RemoteFile, ...]:
        return tuple(file for file in self.files if not _has_size(self.target(file), file.size_bytes))

    def target(self, file: RemoteFile) -> Path:
        return self.directory / file.name


def fetch(
    request: HubRequest, store: Path, notify: Notify, *, endpoint: str | None = None, peers: Peers | None = None
) -> ModelFiles:
    """The files on this device, checked. ``endpoint`` None: the hub, or HF_ENDPOINT. The token is the environment's.

    A file that another device of ``peers`` has is downloaded from there. Raises LoadFailed: MODEL_FILE_MISSING,
    MODEL_FILE_INVALID, DISK_FULL.
    """
    home = _home(request, store)
    with os_errors_named(f"hf:{request.repo} cannot be stored in {home}"):
        listing = _complete_listing(home, request) or listing_of(home, request, notify, endpoint)
        repo = RemoteRepo(request.repo, listing.commit, endpoint)
        picks = _pick(listing, request, home)
        paths = [_ensure_local(picked, repo, store, notify, peers) for picked in picks]
        (path, sha256), *projectors = paths
        facts = check_model(path)
        for projector, _ in projectors:
            check_projector(projector)
        return ModelFiles(path, projectors[0][0] if projectors else None, facts, sha256)


def missing_files(
    request: HubRequest, store: Path, timeout_s: float, *, endpoint: str | None = None
) -> tuple[MissingFile, ...]:
    """What ``fetch`` would download. Asks the hub unless the stored listing is fresh. Raises LoadFailed."""
    home = _home(request, store)
    listing = stored_listing(home, request, fresh_only=True)
    if listing is None or not _can_pick(listing, request, home):
        listing = listing_of(home, request, lambda _: None, endpoint, timeout_s)
    return tuple(
        MissingFile(picked.target(file), max(0, file.size_bytes - size_of(partial_of(picked.target(file)))))
        for picked in _pick(listing, request, home)
        if _in_library_cache(picked, request.repo, listing.commit) is None
        for file in picked.missing()
    )


def _home(request: HubRequest, store: Path) -> Path:
    return store / "hf" / request.repo.replace("/", "--")


def _pick(listing: Listing, request: HubRequest, home: Path) -> tuple[_Picked, ...]:
    """The model, and the projector where one is asked for."""
    groups: list[tuple[RemoteFile, ...]] = [pick_model(listing.files, request.repo, request.file, request.quantisation)]
    if request.mmproj is not None:
        groups.append((pick_mmproj(listing.files, request.repo, request.mmproj),))
    return tuple(_Picked(group, home / _digest(group, listing.commit)) for group in groups)


def _can_pick(listing: Listing, request: HubRequest, home: Path) -> bool:
    try:
        return bool(_pick(listing, request, home))
    except LoadFailed:  # the file may have come since
        return False


def _digest(group: Sequence[RemoteFile], commit: str) -> str:
    contents = "\n".join(f"{file.name} {file.sha256 or commit}" for file in group)
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def _ensure_local(
    picked: _Picked, repo: RemoteRepo, store: Path, notify: Notify, peers: Peers | None
) -> tuple[Path, str]:
    """Path and SHA-256 of the first file, once all of them are there."""
    paths = _in_library_cache(picked, repo.name, repo.commit)
    if paths is None:
        paths = [picked.target(file) for file in picked.files]
        if picked.missing():
            with locked(picked.directory, notify):
                _fetch_missing(picked, repo, store, notify, peers)
    picked.directory.mkdir(parents=True, exist_ok=True)
    digests = []
    for path, file in zip(paths, picked.files, strict=True):
        digests.append(verified_sha256(path, file.sha256, f"hf:{repo.name}", notify, picked.directory))
        share(store, path, digests[-1])
    return paths[0], digests[0]


def _fetch_missing(picked: _Picked, repo: RemoteRepo, store: Path, notify: Notify, peers: Peers | None) -> None:
    picked.directory.mkdir(parents=True, exist_ok=True)
    missing = picked.missing()  # again, inside the lock: another process may have fetched them meanwhile
    begun_bytes = sum(size_of(partial_of(picked.target(file))) for file in missing)
    total_bytes = sum(file.size_bytes for file in missing)
    if missing:
        need_room(picked.directory, max(0, total_bytes - begun_bytes), f"hf:{repo.name}")
    progress = ByteProgress(notify, f"fetching hf:{repo.name}", total_bytes)
    done_bytes = 0
    for file in missing:
        target = picked.target(file)
        from_hub = partial(download, repo, file, target, progress.offset_by(done_bytes))
        if file.sha256 is None:
            from_hub(notify)
        else:
            wanted = WantedFile(file.name, target, file.sha256, file.sha256, file.size_bytes)
            download_once(wanted, store, peers, notify, from_hub)
        done_bytes += file.size_bytes


def _in_library_cache(picked: _Picked, repo: str, commit: str) -> list[Path] | None:
    """The files in the Hugging Face cache, where another program has put them all."""
    from huggingface_hub import try_to_load_from_cache

    if not picked.missing():
        return None
    found = [try_to_load_from_cache(repo, file.path, revision=commit) for file in picked.files]
    paths = [Path(path) for path in found if isinstance(path, str)]
    whole = len(paths) == len(picked.files) and all(
        _has_size(path, file.size_bytes) for path, file in zip(paths, picked.files, strict=True)
    )
    return paths if whole else None


def _complete_listing(home: Path, request: HubRequest) -> Listing | None:
    """The stored listing, where it is fresh and all files that are picked from it are on this device."""
    stored = stored_listing(home, request, fresh_only=True)
    if stored is None or not _can_pick(stored, request, home):
        return None
    picks = _pick(stored, request, home)
    is_complete = all(not one.missing() or _in_library_cache(one, request.repo, stored.commit) for one in picks)
    return stored if is_complete else None


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and size_of(path) == size_bytes
