"""Requests and responses between the model servers of devices. PURE

::

    GET, HEAD /sha256/<64 hex digits>                 a file, by its contents
    GET       /find?path=PATH&mmproj=NAME             files that lie at a path on that device
    GET       /find?url_key=<64 hex digits>           the file that came from an address (the SHA-256 of the address)

Every request has ``Authorization: Bearer TOKEN``. The status of the file stands in the header STATE and, for clients
other than ours, in the HTTP status: 200 the file is here; 202 it is being fetched or hashed; 503 it is here but is not
sent now; 404 it is not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from urllib.parse import urlencode

from agents.contract.model_peers import Peer
from agents.contract.web_address import names_one_file

STATE = "X-Orchestrate-State"
BYTES = "X-Orchestrate-Bytes"
"""Bytes of the file that are on the device: all of them, or those fetched or hashed so far."""
BEAT = "X-Orchestrate-Beat"
"""A text that changes while the fetch makes progress: during a hash of the whole, BYTES stands still."""

HEX64 = re.compile(r"[0-9a-f]{64}")
_MAX_FILES = 1_001
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class FileStatus(StrEnum):
    """What a device can say of a file. In a fetch: INTENDS, then WAITS (for another device) or FETCHES, then HAS."""

    HAS = "has"
    SERVES = "serves"  # has it, but sends MAX_TRANSFERS files already
    MEASURES = "measures"  # has it, or may have it, but a benchmark runs: nothing is sent
    FETCHES = "fetches"  # downloads it from the internet
    INTENDS = "intends"  # asks the others whether one has it or fetches it
    WAITS = "waits"  # waits for another device that has it or fetches it
    READS = "reads"  # has it, and is hashing it
    LACKS = "lacks"


HTTP_STATUS: dict[FileStatus, int] = {
    FileStatus.HAS: 200,
    FileStatus.SERVES: 503,
    FileStatus.MEASURES: 503,
    FileStatus.FETCHES: 202,
    FileStatus.INTENDS: 202,
    FileStatus.WAITS: 202,
    FileStatus.READS: 202,
    FileStatus.LACKS: 404,
}


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file that a device hands out."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one device. ``refusal``: why there is none (unreachable, another token), then as LACKS."""

    peer: Peer
    status: FileStatus
    bytes_so_far: int = 0
    beat: str = ""
    files: tuple[SharedFile, ...] = ()
    refusal: str = ""


def contents_query(sha256: str) -> str:
    return f"/sha256/{sha256}"


def path_query(path: str, mmproj: str | None) -> str:
    return "/find?" + urlencode({"path": path, **({"mmproj": mmproj} if mmproj else {})})


def address_query(key: str) -> str:
    return "/find?" + urlencode({"url_key": key})


def files_to_json(files: Sequence[SharedFile]) -> bytes:
    return json.dumps([asdict(file) for file in files]).encode()


def files_from_json(data: bytes) -> tuple[SharedFile, ...]:
    """Raises ValueError for anything but a list of files with bare names that end in .gguf, sizes and hashes."""
    try:
        rows = json.loads(data)
        files = tuple(SharedFile(row["name"], row["size_bytes"], row["sha256"]) for row in rows)
    except (TypeError, KeyError) as error:
        raise ValueError("not a list of files") from error
    if not 0 < len(files) <= _MAX_FILES or len({file.name for file in files}) < len(files):
        raise ValueError("no files, too many, or one name twice")
    for file in files:
        if not isinstance(file.name, str) or not names_one_file(file.name):
            raise ValueError("not the name of a file")
        if type(file.size_bytes) is not int or file.size_bytes < 0:
            raise ValueError("not a size")
        if not isinstance(file.sha256, str) or not HEX64.fullmatch(file.sha256):
            raise ValueError("not a SHA-256")
    return files


def range_of(requested: str | None, size: int) -> tuple[int, int]:
    """First byte, and the one after the last. Anything but one range with a first byte means the whole file."""
    found = _RANGE.fullmatch(requested or "")
    if found is None:
        return 0, size
    start = int(found[1])
    end = min(size, int(found[2]) + 1) if found[2] else size
    return (start, end) if start < end or start >= size else (0, size)
