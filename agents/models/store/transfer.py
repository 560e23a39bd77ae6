"""Bytes of one file from any HTTP server to the disk: taken up where they stopped, counted, verified."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.progress import Notify
from agents.models.store.disk import hash_file

if TYPE_CHECKING:
    import httpx2

RECONNECT_WAIT_S = 1.0


class TransferStopped(Exception):
    """The server sends no more for now; the text says why. The bytes that have come stay on the disk."""


@dataclass(frozen=True, slots=True)
class Sender:
    """A server that sends the file from a byte on.

    ``ask`` opens its answer, and raises for one that is not the file. ``reconnects``: how often in a row it may break
    off without having sent a byte.
    """

    ask: Callable[[int], AbstractContextManager[httpx2.Response]]
    reconnects: int = 4


def partial_of(target: Path) -> Path:
    """Where the bytes stand until they are all there."""
    return target.with_name(f"{target.name}.partial")


def library_folder_of(partial: Path) -> Path:
    """Where huggingface_hub keeps what it fetches for ``partial``, until it is all there."""
    return partial.with_name(f"{partial.name}.d")


def receive(sender: Sender, partial: Path, size_bytes: int | None, on_bytes: Callable[[int], None]) -> None:
    """Appends to ``partial`` until it has ``size_bytes``; None: until an answer ends by itself.

    ``on_bytes`` is called with how many bytes are there. Raises TransferStopped, and what ``sender.ask`` raises.
    """
    import httpx2

    with partial.open("ab") as sink:
        if size_bytes is not None and sink.tell() > size_bytes:
            _empty(sink)
        on_bytes(sink.tell())
        failures = 0
        while size_bytes is None or sink.tell() < size_bytes:
            before = sink.tell()
            why = "it ended too early"
            try:
                _append_response(sender, sink, size_bytes, on_bytes)
                if size_bytes is None:
                    return
            except httpx2.TransportError as error:
                why = type(error).__name__
            except TransferStopped as stopped:
                why = str(stopped)
            if size_bytes is None or sink.tell() < size_bytes:
                failures = 1 if sink.tell() > before else failures + 1
                if failures > sender.reconnects:
                    raise TransferStopped(why)
                time.sleep(RECONNECT_WAIT_S)


def _append_response(sender: Sender, sink: BinaryIO, size_bytes: int | None, on_bytes: Callable[[int], None]) -> None:
    """Makes one request from where ``sink`` ends and appends the response; from a server without ranges, anew."""
    with sender.ask(sink.tell()) as response:
        first_byte = _first_byte_of(response)
        if first_byte not in (0, sink.tell()):
            raise TransferStopped("it answers with other bytes than asked for")
        if first_byte != sink.tell():
            _empty(sink)
        for block in response.iter_bytes():  # as they come: with a size, what is gathered is lost when the line breaks
            sink.write(block)
            if size_bytes is not None and sink.tell() > size_bytes:
                break
            on_bytes(sink.tell())
    sink.flush()


def _empty(sink: BinaryIO) -> None:
    sink.seek(0)
    sink.truncate()


def _first_byte_of(response: httpx2.Response) -> int:
    """Place in the file of the answer's first byte: ``Content-Range: bytes 1000-1999/2000`` -> 1000."""
    stated = str(response.headers.get("Content-Range", ""))
    return int(stated.removeprefix("bytes ").partition("-")[0]) if response.status_code == 206 else 0


def verify_partial(partial: Path, size_bytes: int | None, sha256: str | None, what: str, notify: Notify) -> str:
    """SHA-256 of ``partial``, which is deleted where size or hash (None: not known) are not those expected.

    Raises LoadFailed(MODEL_FILE_INVALID).
    """
    has_bytes = partial.stat().st_size
    has_sha256 = hash_file(partial, notify)
    if has_bytes == (has_bytes if size_bytes is None else size_bytes) and has_sha256 == (sha256 or has_sha256):
        return has_sha256
    partial.unlink()
    by_size = size_bytes is not None and has_bytes != size_bytes
    stated = f"{size_bytes:,} bytes" if by_size else f"SHA-256 {sha256}"
    has = f"{has_bytes:,} bytes" if by_size else f"SHA-256 {has_sha256}"
    raise LoadFailed(
        Cause.MODEL_FILE_INVALID, f"{what} should have {stated} but came with {has}; it was deleted, try again"
    )
