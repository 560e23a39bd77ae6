"""What devices say to each other about model files. PURE

::

    GET, HEAD /sha256/<64 hex digits>                 a file, by its contents
    GET       /find?path=PATH&mmproj=NAME             files that lie at a path on that device
    GET       /find?url_key=<64 hex digits>           the file that came from an address (the SHA-256 of the address)

Every request has ``Authorization: Bearer TOKEN``. The state is in a header and, for others, in the status: 200 it has
the file; 202 it will have it, or is looking at it; 503 it has it, but not now; 404 it has it not.
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
"""How many bytes of the file are there: all, or those fetched or hashed so far."""
BEAT = "X-Orchestrate-Beat"
"""Another text than before: something has happened, though no byte may have come."""

HEX64 = re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 1_001


class State(StrEnum):
    """How a file stands at a device. The order of a fetch: INTENDS, then WAITS for another or FETCHES, then HAS."""

    HAS = "has"
    SERVES = "serves"  # has it, and sends as many files as it will at once
    MEASURES = "measures"  # has it, or may have it, and a benchmark runs: nothing is sent
    FETCHES = "fetches"  # from the internet, now
    INTENDS = "intends"  # is finding out whether another has it, or fetches it
    WAITS = "waits"  # for another device that fetches it, or has it
    READS = "reads"  # has it, and is hashing it
    LACKS = "lacks"


STATUS: dict[State, int] = {
    State.HAS: 200,
    State.SERVES: 503,
    State.MEASURES: 503,
    State.FETCHES: 202,
    State.INTENDS: 202,
    State.WAITS: 202,
    State.READS: 202,
    State.LACKS: 404,
}


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file that a device offers."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one device says of one file. ``refusal`` says why nothing can be had from it, where it is not LACKS."""

    peer: Peer
    state: State
    bytes_so_far: int = 0
    beat: str = ""
    files: tuple[SharedFile, ...] = ()
    refusal: str = ""


def by_contents(sha256: str) -> str:
    return f"/sha256/{sha256}"


def at_path(path: str, mmproj: str | None) -> str:
    return "/find?" + urlencode({"path": path, **({"mmproj": mmproj} if mmproj else {})})


def at_address(key: str) -> str:
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
    if not 0 < len(files) <= _MOST_FILES or len({file.name for file in files}) < len(files):
        raise ValueError("no files, too many, or one name twice")
    for file in files:
        if not isinstance(file.name, str) or not names_one_file(file.name):
            raise ValueError("not the name of a file")
        if type(file.size_bytes) is not int or file.size_bytes < 0:
            raise ValueError("not a size")
        if not isinstance(file.sha256, str) or not HEX64.fullmatch(file.sha256):
            raise ValueError("not a SHA-256")
    return files
