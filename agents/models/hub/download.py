"""One file from the hub to the disk: resumed where an earlier attempt stopped, also one that was killed; verified.

Why not ``hf_hub_download`` (huggingface_hub 2.4): each call begins a temporary file of its own and removes it at its
end, so that 17 of 18 GiB are lost with the process; and over plain HTTP it checks the size alone, not the hash.
Its parts are used: addresses, headers with the token, the session with its retries, the reading of answers.
Files over 50 GB the hub serves through Xet alone; those go through ``hf_hub_download``, and begin anew when killed.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agents.files import rename_durably
from agents.models.hub.errors import HubUnreachable, hub_errors_named
from agents.models.hub.pick import RemoteFile
from agents.models.progress import Notify
from agents.models.store.disk import record_sha256
from agents.models.store.transfer import Sender, TransferStopped, library_folder_of, partial_of, receive, verify_partial

if TYPE_CHECKING:
    import httpx2

LOOK_S = 1.0
PLAIN_HTTP_LIMIT_BYTES = 50_000_000_000  # huggingface_hub.constants.MAX_HTTP_DOWNLOAD_SIZE


@dataclass(frozen=True, slots=True)
class RemoteRepo:
    """A repository at one commit; ``endpoint`` None: the hub, or HF_ENDPOINT."""

    name: str
    commit: str
    endpoint: str | None = None


def download(repo: RemoteRepo, file: RemoteFile, target: Path, on_bytes: Callable[[int], None], notify: Notify) -> None:
    """Puts ``file`` at ``target``, whole and verified. ``on_bytes`` is called with how many of its bytes have come.

    A kill between the last byte and the rename costs a hash: the next call finds a whole partial file and asks nothing.

    Raises LoadFailed: HubUnreachable, MODEL_FILE_MISSING, MODEL_FILE_INVALID where size or SHA-256 differ, DISK_FULL.
    """
    partial = partial_of(target)
    with hub_errors_named(repo.name, repo.commit):
        if file.size_bytes > PLAIN_HTTP_LIMIT_BYTES:
            _download_by_library(repo, file, partial, on_bytes)
        else:
            try:
                receive(Sender(lambda start: _open_response(repo, file, start)), partial, file.size_bytes, on_bytes)
            except TransferStopped as why:
                raise HubUnreachable(f"the hub stopped sending {file.path} ({why})") from why
        sha256 = verify_partial(partial, file.size_bytes, file.sha256, f"hf:{repo.name}: {file.path}", notify)
        rename_durably(partial, target)
        record_sha256(target, sha256)


@contextmanager
def _open_response(repo: RemoteRepo, file: RemoteFile, start: int) -> Iterator[httpx2.Response]:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented there, but not in its __all__
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    url = hf_hub_url(repo.name, file.path, revision=repo.commit, endpoint=repo.endpoint)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={start}-"}
    with http_stream_backoff(
        "GET", url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT, retry_on_exceptions=()
    ) as response:
        hf_raise_for_status(response)
        yield response


def _download_by_library(repo: RemoteRepo, file: RemoteFile, partial: Path, on_bytes: Callable[[int], None]) -> None:
    """The library shows no progress and takes hours: on a thread, so that this one can see bytes come, and a cancel,
    which ``on_bytes`` raises. The thread then ends with the process."""
    from huggingface_hub import hf_hub_download

    folder, fetched = library_folder_of(partial), Future[str]()

    def fetch() -> None:
        try:
            found = hf_hub_download(
                repo.name, file.path, revision=repo.commit, local_dir=folder, endpoint=repo.endpoint
            )
            fetched.set_result(found)
        except BaseException as error:
            fetched.set_exception(error)

    threading.Thread(target=fetch, name="hf_hub_download", daemon=True).start()
    on_disk = -1
    while not wait([fetched], timeout=LOOK_S).done:
        # Only where bytes have come: what does not go on must not look as if it did.
        if (now := _bytes_on_disk(folder)) != on_disk:
            on_disk = now
            on_bytes(min(now, file.size_bytes))
    Path(fetched.result()).replace(partial)
    shutil.rmtree(folder, ignore_errors=True)


def _bytes_on_disk(folder: Path) -> int:
    """Blocks that are written: a file may be as long as it will be from the start."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # renamed meanwhile
            stat = path.stat()
            total += getattr(stat, "st_blocks", 0) * 512 or stat.st_size
    return total
