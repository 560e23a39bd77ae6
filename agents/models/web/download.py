"""One file from an address on the web to the disk: resumed, and verified where its SHA-256 is known.

The login of an address goes to its host alone, not to where a redirect leads; no message shows it, nor a query.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agents.contract.report import Cause
from agents.contract.web_address import login_of, shown, without_login
from agents.errors import LoadFailed
from agents.files import rename_durably, write_atomic
from agents.models.progress import ByteProgress, Notify
from agents.models.store.disk import need_room, os_failure, record_sha256, size_of
from agents.models.store.transfer import Sender, TransferStopped, partial_of, receive, verify_partial

if TYPE_CHECKING:
    import httpx2

CONNECT_S = 10.0
SILENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class WebFile:
    """What a server states of a file before it sends it. ``version``: its ETag or its date. None: not stated."""

    size_bytes: int | None
    version: str | None


class Unreachable(LoadFailed):
    """The server does not answer, or sends no more."""

    def __init__(self, detail: str) -> None:
        super().__init__(Cause.MODEL_FILE_MISSING, detail)


def download_from(url: str, sha256: str | None, target: Path, notify: Notify) -> None:
    """Puts the file at ``target``. Raises LoadFailed: Unreachable, MODEL_FILE_MISSING where the server refuses,
    MODEL_FILE_INVALID where size or hash differ, DISK_FULL."""
    name = f"url:{shown(url)}"
    partial = partial_of(target)
    with web_errors_named(name), _client(url) as client:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = _query_file(client, url)
        _discard_stale_partial(partial, file, sha256)
        need_room(target.parent, max(0, (file.size_bytes or 0) - size_of(partial)), name)
        progress = ByteProgress(notify, f"fetching {name}", file.size_bytes)
        sender = Sender(lambda start: _open_response(client, url, start, file))
        receive(sender, partial, file.size_bytes, progress.update)
        _version_path(partial).unlink(missing_ok=True)
        digest = verify_partial(partial, file.size_bytes, sha256, name, notify)
        rename_durably(partial, target)
        record_sha256(target, digest)


def size_at(url: str, timeout_s: float) -> int | None:
    """Size of the file in bytes; None where the server does not state it. Raises LoadFailed as ``download_from``."""
    with web_errors_named(f"url:{shown(url)}"), _client(url, timeout_s) as client:
        return _query_file(client, url).size_bytes


@contextmanager
def web_errors_named(name: str) -> Iterator[None]:
    """What asking a server can raise becomes LoadFailed, without a foreign error's words: they may hold the address."""
    import httpx2

    try:
        yield
    except TransferStopped as why:
        raise Unreachable(f"{name}: the server stopped sending ({why})") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unreachable(f"{name} cannot be reached ({type(error).__name__})") from None
    except ValueError:
        raise Unreachable(f"{name}: what answers does not speak HTTP as it should") from None
    except OSError as error:
        raise os_failure(error, f"{name} cannot be stored") from error


def _client(url: str, timeout_s: float = SILENCE_S) -> httpx2.Client:
    """The login is taken out of the address: the client's own log would repeat it."""
    import httpx2

    return httpx2.Client(
        auth=login_of(url),
        headers={"Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
        follow_redirects=True,
    )


def _query_file(client: httpx2.Client, url: str) -> WebFile:
    """By HEAD; by GET of the first byte from a server, or a signed address, that knows no HEAD."""
    response = client.head(without_login(url))
    if response.is_success and "Content-Length" in response.headers:
        return WebFile(_size_or_none(response.headers["Content-Length"]), _version_of(response))
    with client.stream("GET", without_login(url), headers={"Range": "bytes=0-0"}) as response:
        _raise_for_status(response, url)
        in_all = response.headers.get("Content-Range", "").rpartition("/")[2]
        size = in_all if response.status_code == 206 else response.headers.get("Content-Length")
        return WebFile(_size_or_none(size), _version_of(response))


def _size_or_none(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _version_of(response: httpx2.Response) -> str | None:
    """What ``If-Range`` takes: a strong ETag, else the date."""
    tag = response.headers.get("ETag", "")
    version: str | None = tag if tag.startswith('"') else response.headers.get("Last-Modified")
    return version


@contextmanager
def _open_response(client: httpx2.Client, url: str, start: int, file: WebFile) -> Iterator[httpx2.Response]:
    headers = {}
    if start:
        headers["Range"] = f"bytes={start}-"
        if file.version is not None:
            headers["If-Range"] = file.version
    with client.stream("GET", without_login(url), headers=headers) as response:
        _raise_for_status(response, url)
        yield response


def _raise_for_status(response: httpx2.Response, url: str) -> None:
    name, status = f"url:{shown(url)}", response.status_code
    if response.is_success:
        return
    if status == 429 or status >= 500 or status == 416:
        raise TransferStopped(f"HTTP {status}")
    if status in (401, 403):
        raise _missing(f"the server refuses {name} (HTTP {status}): a login stands before its host, user:password@")
    if status in (404, 410):
        raise _missing(f"the server has no {name} (HTTP {status})")
    raise _missing(f"{name}: the server answers HTTP {status}")


def _missing(detail: str) -> LoadFailed:
    return LoadFailed(Cause.MODEL_FILE_MISSING, detail)


def _discard_stale_partial(partial: Path, file: WebFile, sha256: str | None) -> None:
    """Deletes what an earlier attempt has downloaded, unless it can be continued: where the hash will prove the whole,
    or where the server still has the same version of the file."""
    version = None
    with suppress(OSError, ValueError, KeyError, TypeError):
        version = json.loads(_version_path(partial).read_bytes())["version"]
    can_continue = sha256 is not None or (file.version is not None and version == file.version)
    if not can_continue or file.size_bytes is None:
        partial.unlink(missing_ok=True)
    write_atomic(_version_path(partial), json.dumps({"version": file.version}), flush=False)


def _version_path(partial: Path) -> Path:
    return partial.with_name(f".{partial.name}.json")
