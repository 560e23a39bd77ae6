"""Models from Hugging Face: listed, picked, fetched into the store, verified; from the store alone without a network.

In the store: ``hf/OWNER--NAME/<digest>/<file>``, where the digest is that of the model's contents: a new commit that
does not change the file costs nothing, and one that does leaves the old one in its place. ``listings/`` keeps what
each revision held. What other programs have put into the Hugging Face cache is used where it lies.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.disk import alone, need_room, os_errors_named, sha256_of, written_aside
from agents.models.files import ModelFiles
from agents.models.gguf_check import check_model, check_projector
from agents.models.hub_download import RemoteRepo, download, partial_of
from agents.models.hub_errors import HubUnreachable, hub_errors_named
from agents.models.hub_pick import RemoteFile, pick_mmproj, pick_model
from agents.models.progress import Progress, Say

LISTING_HOLDS_S = 3600.0
"""So long a listing is believed without asking again, where all that is picked from it is there: a campaign of
hundreds of jobs asks the hub once, and goes on with one and the same file."""

_ASK_TIMEOUT_S = 20.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubRequest:
    """What is wanted: ``file`` and ``mmproj`` are names or globs; without ``file`` the quantisation picks."""

    repo: str
    revision: str | None = None
    file: str | None = None
    quantisation: str | None = None
    mmproj: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class _Picked:
    """Files that belong side by side, and the directory of the store where they go."""

    files: tuple[RemoteFile, ...]
    directory: Path

    def missing(self) -> tuple[RemoteFile, ...]:
        return tuple(file for file in self.files if not _has_size(self.directory / file.name, file.size_bytes))


def fetch(request: HubRequest, store: Path, say: Say, *, endpoint: str | None = None) -> ModelFiles:
    """The files on this device, checked. ``endpoint`` None: the hub, or HF_ENDPOINT. The token is the environment's.

    Raises LoadFailed: MODEL_FILE_MISSING, MODEL_FILE_INVALID, DISK_FULL.
    """
    home = store / "hf" / request.repo.replace("/", "--")
    with os_errors_named(f"hf:{request.repo} cannot be stored in {home}"):
        listing = _settled_listing(home, request) or _listing(home, request, say, endpoint)
        picks = _pick(listing, request, home)
        paths = [_on_this_device(picked, request.repo, listing, say, endpoint) for picked in picks]
        (path, sha256), *projectors = paths
        facts = check_model(path)
        for projector, _ in projectors:
            check_projector(projector)
        return ModelFiles(path, projectors[0][0] if projectors else None, facts, sha256)


def _pick(listing: Listing, request: HubRequest, home: Path) -> tuple[_Picked, ...]:
    """The model, and the projector where one is asked for."""
    groups: list[tuple[RemoteFile, ...]] = [pick_model(listing.files, request.repo, request.file, request.quantisation)]
    if request.mmproj is not None:
        groups.append((pick_mmproj(listing.files, request.repo, request.mmproj),))
    return tuple(_Picked(group, home / _digest(group, listing.commit)) for group in groups)


def _digest(group: Sequence[RemoteFile], commit: str) -> str:
    contents = "\n".join(f"{file.name} {file.sha256 or commit}" for file in group)
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def _on_this_device(picked: _Picked, repo: str, listing: Listing, say: Say, endpoint: str | None) -> tuple[Path, str]:
    """Path and SHA-256 of the first file, once all of them are there."""
    paths = _in_library_cache(picked, repo, listing.commit)
    if paths is None:
        paths = [picked.directory / file.name for file in picked.files]
        if picked.missing():
            with alone(picked.directory, say):
                _download_missing(picked, RemoteRepo(repo, listing.commit, endpoint), say)
    picked.directory.mkdir(parents=True, exist_ok=True)
    digests = [sha256_of(path, say, picked.directory) for path in paths]
    for path, file, digest in zip(paths, picked.files, digests, strict=True):
        if digest != (file.sha256 or digest):
            raise LoadFailed(
                Cause.MODEL_FILE_INVALID,
                f"{path} has SHA-256 {digest}, but hf:{repo} says {file.sha256}: damaged, delete it to fetch it again",
            )
    return paths[0], digests[0]


def _download_missing(picked: _Picked, repo: RemoteRepo, say: Say) -> None:
    picked.directory.mkdir(parents=True, exist_ok=True)
    missing = picked.missing()
    begun_bytes = sum(_size(partial_of(picked.directory / file.name)) for file in missing)
    total_bytes = sum(file.size_bytes for file in missing)
    if missing:
        need_room(picked.directory, max(0, total_bytes - begun_bytes), f"hf:{repo.name}")
    progress = Progress(say, f"fetching hf:{repo.name}", total_bytes)
    done_bytes = 0
    for file in missing:
        download(repo, file, picked.directory / file.name, progress.after(done_bytes), say)
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


def _settled_listing(home: Path, request: HubRequest) -> Listing | None:
    """The kept listing, where it still holds and all that is picked from it is on this device."""
    kept = _kept_listing(home, request, fresh_only=True)
    if kept is None:
        return None
    try:
        picks = _pick(kept, request, home)
    except LoadFailed:  # the file may have come since
        return None
    here = all(not one.missing() or _in_library_cache(one, request.repo, kept.commit) for one in picks)
    return kept if here else None


def _listing(home: Path, request: HubRequest, say: Say, endpoint: str | None) -> Listing:
    """Asked of the hub; where it cannot be reached, what was kept, or what the library's cache has."""
    try:
        listing = _asked(request, endpoint)
    except HubUnreachable as unreachable:
        kept = _kept_listing(home, request, fresh_only=False) or _library_cache_listing(request)
        if kept is None:
            raise LoadFailed(
                unreachable.cause, f"hf:{request.repo} is not on this device, and {unreachable.detail}"
            ) from unreachable
        say(f"{unreachable.detail}: hf:{request.repo} as it was kept on this device")
        return kept
    with suppress(OSError):
        _keep_listing(home, request, listing)
    return listing


def _asked(request: HubRequest, endpoint: str | None) -> Listing:
    from huggingface_hub import HfApi

    with hub_errors_named(request.repo, request.revision):
        info = HfApi(endpoint=endpoint).model_info(
            request.repo, revision=request.revision, files_metadata=True, timeout=_ASK_TIMEOUT_S
        )
        files = tuple(
            RemoteFile(one.rfilename, one.size, one.lfs.sha256 if one.lfs else None)
            for one in info.siblings or ()
            if one.size is not None and "\\" not in one.rfilename
        )
        if info.sha is None:
            raise ValueError("the answer has no commit")
        return Listing(info.sha, files)


def _kept_listing(home: Path, request: HubRequest, *, fresh_only: bool) -> Listing | None:
    """None where there is none, or it is damaged, or older than LISTING_HOLDS_S and not of a fixed commit."""
    path = _listing_path(home, request)
    try:
        age_s = time.time() - path.stat().st_mtime
        raw = json.loads(path.read_bytes())
        listing = Listing(str(raw["commit"]), tuple(RemoteFile(**file) for file in raw["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    fixed = _COMMIT.fullmatch(request.revision or "") is not None
    return listing if fixed or not fresh_only or 0 <= age_s < LISTING_HOLDS_S else None


def _keep_listing(home: Path, request: HubRequest, listing: Listing) -> None:
    path = _listing_path(home, request)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as file:
        file.write(json.dumps(asdict(listing)).encode())


def _listing_path(home: Path, request: HubRequest) -> Path:
    return home / "listings" / f"{quote(request.revision or 'main', safe='')}.json"


def _library_cache_listing(request: HubRequest) -> Listing | None:
    """What the Hugging Face cache holds of the repository at the revision."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return None
    wanted = request.revision or "main"
    for repo in repos:
        if repo.repo_id != request.repo or repo.repo_type != "model":
            continue
        for revision in repo.revisions:
            if wanted == revision.commit_hash or wanted in revision.refs:
                files = tuple(
                    RemoteFile(
                        file.file_path.relative_to(revision.snapshot_path).as_posix(),
                        file.size_on_disk,
                        file.blob_path.name if re.fullmatch(r"[0-9a-f]{64}", file.blob_path.name) else None,
                    )
                    for file in revision.files
                )
                return Listing(revision.commit_hash, files)
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and _size(path) == size_bytes
