"""One file from the hub to the disk: resumed where an earlier attempt stopped, also one that was killed; verified.

Why not ``hf_hub_download`` (huggingface_hub 2.4): each call begins a temporary file of its own and removes it at its
end, so that 17 of 18 GiB are lost with the process; and over plain HTTP it checks the size alone, not the hash.
Its parts are used: addresses, headers with the token, the session with its retries, the reading of answers.
Files over 50 GB the hub serves through Xet alone; those go through ``hf_hub_download``, and begin anew when killed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.disk import hashed, keep_digest, settle
from agents.models.hub_errors import HubUnreachable, hub_errors_named
from agents.models.hub_pick import RemoteFile
from agents.models.progress import Say

if TYPE_CHECKING:
    import httpx2

PLAIN_HTTP_LIMIT_BYTES = 50_000_000_000  # huggingface_hub.constants.MAX_HTTP_DOWNLOAD_SIZE
RECONNECT_WAIT_S = 1.0
_RECONNECTS_WITHOUT_A_BYTE = 4


@dataclass(frozen=True, slots=True)
class RemoteRepo:
    """A repository at one commit; ``endpoint`` None: the hub, or HF_ENDPOINT."""

    name: str
    commit: str
    endpoint: str | None = None


def download(repo: RemoteRepo, file: RemoteFile, target: Path, at: Callable[[int], None], say: Say) -> None:
    """Puts ``file`` at ``target``, whole and verified. ``at`` is told how many of its bytes are there.

    Raises LoadFailed: HubUnreachable, MODEL_FILE_MISSING, MODEL_FILE_INVALID where size or SHA-256 differ, DISK_FULL.
    """
    partial = partial_of(target)
    with hub_errors_named(repo.name, repo.commit):
        if file.size_bytes > PLAIN_HTTP_LIMIT_BYTES:
            _by_library(repo, file, partial)
        else:
            _by_ranges(repo, file, partial, at)
        sha256 = _verified(repo, file, partial, say)
        settle(partial, target)
        keep_digest(target, sha256)


def partial_of(target: Path) -> Path:
    """Where the bytes stand until they are all there."""
    return target.with_name(f"{target.name}.partial")


def _by_ranges(repo: RemoteRepo, file: RemoteFile, partial: Path, at: Callable[[int], None]) -> None:
    import httpx2

    with partial.open("ab") as sink:
        if sink.tell() > file.size_bytes:
            _empty(sink)
        at(sink.tell())
        failures = 0
        while sink.tell() < file.size_bytes:
            before = sink.tell()
            why = "it ended too early"
            try:
                _receive(repo, file, sink, at)
            except httpx2.TransportError as error:
                why = type(error).__name__
            if sink.tell() < file.size_bytes:
                failures = 1 if sink.tell() > before else failures + 1
                if failures > _RECONNECTS_WITHOUT_A_BYTE:
                    raise HubUnreachable(f"the hub stopped sending {file.path} ({why})")
                time.sleep(RECONNECT_WAIT_S)


def _receive(repo: RemoteRepo, file: RemoteFile, sink: BinaryIO, at: Callable[[int], None]) -> None:
    """One request, from where ``sink`` ends; appends what comes. A server that knows no ranges makes it begin anew."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented there, but not in its __all__
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    url = hf_hub_url(repo.name, file.path, revision=repo.commit, endpoint=repo.endpoint)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={sink.tell()}-"}
    with http_stream_backoff(
        "GET", url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT, retry_on_exceptions=()
    ) as response:
        hf_raise_for_status(response)
        if _begins_at(response) != sink.tell():
            _empty(sink)
        for block in response.iter_bytes():  # as they come: with a size, what is gathered is lost when the line breaks
            sink.write(block)
            if sink.tell() > file.size_bytes:
                break
            at(sink.tell())
    sink.flush()


def _empty(sink: BinaryIO) -> None:
    sink.seek(0)
    sink.truncate()


def _begins_at(response: httpx2.Response) -> int:
    """Place in the file of the answer's first byte: ``Content-Range: bytes 1000-1999/2000`` -> 1000."""
    stated = str(response.headers.get("Content-Range", ""))
    return int(stated.removeprefix("bytes ").partition("-")[0]) if response.status_code == 206 else 0


def _by_library(repo: RemoteRepo, file: RemoteFile, partial: Path) -> None:
    from huggingface_hub import hf_hub_download

    folder = partial.with_name(f"{partial.name}.d")
    fetched = hf_hub_download(repo.name, file.path, revision=repo.commit, local_dir=folder, endpoint=repo.endpoint)
    Path(fetched).replace(partial)
    shutil.rmtree(folder, ignore_errors=True)


def _verified(repo: RemoteRepo, file: RemoteFile, partial: Path, say: Say) -> str:
    """SHA-256 of ``partial``, which is deleted where it is not what the hub says."""
    size_bytes = partial.stat().st_size
    sha256 = hashed(partial, say)
    if size_bytes == file.size_bytes and sha256 == (file.sha256 or sha256):
        return sha256
    partial.unlink()
    stated = f"{file.size_bytes:,} bytes" if size_bytes != file.size_bytes else f"SHA-256 {file.sha256}"
    has = f"{size_bytes:,} bytes" if size_bytes != file.size_bytes else f"SHA-256 {sha256}"
    raise LoadFailed(
        Cause.MODEL_FILE_INVALID,
        f"hf:{repo.name}: {file.path} should have {stated} but came with {has}; it was deleted, try again",
    )
