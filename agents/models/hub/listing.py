"""The files of a repository: from the hub, then stored; else as stored earlier, or from the Hugging Face cache."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from agents.contract.job import ModelSource
from agents.files import write_atomic
from agents.models.hub.errors import HubUnreachable, hub_errors_named
from agents.models.hub.pick import RemoteFile
from agents.models.progress import Notify

LISTING_HOLDS_S = 3600.0
"""For so long a stored listing is used without asking the hub, where all files picked from it are there: the hundreds
of jobs of a run ask once, and all load the same file."""

ASK_TIMEOUT_S = 20.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubRequest:
    """What is wanted: ``file`` and ``mmproj`` are names or globs; without ``file`` the quantisation picks."""

    repo: str
    revision: str | None = None
    file: str | None = None
    quantisation: str | None = None
    mmproj: str | None = None


def request_of(source: ModelSource, quantisation: str | None) -> HubRequest:
    """What a source that names a repository wants of it."""
    return HubRequest(str(source.hf_repo), source.hf_revision, source.hf_file, quantisation, source.mmproj)


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


def listing_of(
    home: Path, request: HubRequest, notify: Notify, endpoint: str | None, timeout_s: float = ASK_TIMEOUT_S
) -> Listing:
    """The hub's listing, which is stored; where the hub cannot be reached, the stored one, or the library cache's.

    Raises LoadFailed: HubUnreachable where neither is, MODEL_FILE_MISSING where the hub has no such repository.
    """
    try:
        listing = _ask_hub(request, endpoint, timeout_s)
    except HubUnreachable as unreachable:
        stored = stored_listing(home, request, fresh_only=False) or _library_cache_listing(request)
        if stored is None:
            raise HubUnreachable(f"hf:{request.repo} is not on this device, and {unreachable.detail}") from unreachable
        notify(f"{unreachable.detail}: hf:{request.repo} as it was kept on this device")
        return stored
    with suppress(OSError):
        write_atomic(_listing_path(home, request), json.dumps(asdict(listing)))
    return listing


def _ask_hub(request: HubRequest, endpoint: str | None, timeout_s: float) -> Listing:
    from huggingface_hub import HfApi

    with hub_errors_named(request.repo, request.revision):
        info = HfApi(endpoint=endpoint).model_info(
            request.repo, revision=request.revision, files_metadata=True, timeout=timeout_s
        )
        files = tuple(
            RemoteFile(one.rfilename, one.size, one.lfs.sha256 if one.lfs else None)
            for one in info.siblings or ()
            if one.size is not None and "\\" not in one.rfilename
        )
        if info.sha is None:
            raise ValueError("the answer has no commit")
        return Listing(info.sha, files)


def stored_listing(home: Path, request: HubRequest, *, fresh_only: bool) -> Listing | None:
    """None where there is none, or it is damaged, or older than LISTING_HOLDS_S and not of a fixed commit."""
    path = _listing_path(home, request)
    try:
        age_s = time.time() - path.stat().st_mtime
        raw = json.loads(path.read_bytes())
        listing = Listing(str(raw["commit"]), tuple(RemoteFile(**file) for file in raw["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_fixed = _COMMIT.fullmatch(request.revision or "") is not None
    return listing if is_fixed or not fresh_only or 0 <= age_s < LISTING_HOLDS_S else None


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
