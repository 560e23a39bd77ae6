"""The log files of one machine, the coordinator's and the agent's, read as one: merged by time, filtered, followed."""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agents.log import AGENT, COORDINATOR, OLDER_FILES
from agents.places import device_root

TIME_CHARS = len("2026-11-30T19:20:31.123Z")

Places = Mapping[str, tuple[int, int]]
"""By part of the log: inode and offset in bytes of what was not yet read. They hold over a rotation of the files."""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Lines with these ids; None: with any. ``device_id`` of the machine itself: all lines of its agent, too."""

    run_id: str | None = None
    device_id: str | None = None
    job_id: str | None = None

    def keeps(self, line: str) -> bool:
        wanted = {"run": self.run_id, "device": self.device_id, "job": self.job_id}
        return all(f" {key}={value} " in f"{line} " for key, value in wanted.items() if value is not None)


@dataclass(frozen=True, slots=True)
class LogPage:
    """``lines`` begin with the part that wrote them. ``next``: where the next page begins."""

    lines: tuple[str, ...]
    next: Places


def log_files(root: Path) -> dict[str, Path]:
    """The present file of each part; older ones lie beside it, numbered."""
    return {COORDINATOR: root / f"{COORDINATOR}.log", AGENT: device_root(root) / f"{AGENT}.log"}


def own_device_id(root: Path) -> str | None:
    try:
        return (device_root(root) / "device-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def read_log(root: Path, wanted: LogFilter, most_lines: int | None = None, after: Places | None = None) -> LogPage:
    """Lines from ``after`` on, else from the oldest that is kept; of these the last ``most_lines``."""
    after = after or {}
    found: list[list[str]] = []
    places: dict[str, tuple[int, int]] = {}
    for part, path in log_files(root).items():
        keeps_all = part == AGENT and wanted.device_id is not None and wanted.device_id == own_device_id(root)
        own = LogFilter(wanted.run_id, None, wanted.job_id) if keeps_all else wanted
        # the oldest first: the reader begins in the file of its place, and reads all behind it
        older = (path.with_name(f"{path.name}.{number}") for number in range(OLDER_FILES, 0, -1))
        with ExitStack() as files:
            opened = [file for each in (*older, path) if (file := _open(each, files)) is not None]
            reader = _Reader(opened, after.get(part))
            kept = (f"{part}: {line}" for line in reader.lines() if own.keeps(line))
            found.append(list(kept if most_lines is None else deque(kept, maxlen=most_lines)))
            if reader.place is not None:
                places[part] = reader.place
    merged = heapq.merge(*found, key=lambda line: line.partition(": ")[2][:TIME_CHARS])
    lines = list(merged)
    return LogPage(tuple(lines if most_lines is None else lines[max(len(lines) - most_lines, 0) :]), places)


def _open(path: Path, files: ExitStack) -> BinaryIO | None:
    with suppress(OSError):
        return files.enter_context(path.open("rb"))
    return None


class _Reader:
    """``place`` is where the complete lines that were read end."""

    def __init__(self, files: list[BinaryIO], after: tuple[int, int] | None) -> None:
        inodes = [os.fstat(file.fileno()).st_ino for file in files]
        self.place = after
        first = 0
        if after is not None and after[0] in inodes:  # else it was rotated away: all that is there is newer
            first = inodes.index(after[0])
            if os.fstat(files[first].fileno()).st_size >= after[1]:
                files[first].seek(after[1])
        self._files = list(zip(inodes, files, strict=True))[first:]

    def lines(self) -> Iterator[str]:
        for inode, file in self._files:
            self.place = (inode, file.tell())
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    break
                self.place = (inode, self.place[1] + len(line))
                yield line.decode("utf-8", "replace").rstrip("\n")
