"""What keeps a device from taking jobs: its disk, and what only a reboot ends."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from agents.agent.blocked import RebootMark, why_unwritable
from agents.contract.device import Blocked
from tests.unit.results.made_attempts import DEVICE

Usage = namedtuple("Usage", "total used free")
GIB, MIB = 2**30, 2**20


def test_a_disk_that_takes_writes(tmp_path: Path) -> None:
    assert why_unwritable(tmp_path / "device") == ""
    assert list((tmp_path / "device").iterdir()) == [], "the probe is gone"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "its disk is full: No space left on device"),
        (errno.EDQUOT, "its disk is full: Disk quota exceeded"),
        (errno.EIO, "its disk takes no writes: Input/output error"),
        (errno.EROFS, "its disk takes no writes: Read-only file system"),
    ],
)
def test_a_disk_that_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    assert why_unwritable(tmp_path) == f"{words} ({tmp_path})"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("total", "free", "is_full"),
    [
        (1000 * GIB, 65 * MIB, False),
        (1000 * GIB, 63 * MIB, True),  # the next log or download would end on it
        (100 * MIB, 6 * MIB, False),
        (100 * MIB, 4 * MIB, True),
    ],
)
def test_a_disk_with_hardly_any_room_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, is_full: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, total - free, free))
    assert bool(why_unwritable(tmp_path)) is is_full


def test_a_mark_holds_for_one_boot(tmp_path: Path) -> None:
    mark = RebootMark(tmp_path, "boot-1")
    assert mark.read() is None
    mark.set("process 7 hangs", DEVICE)
    assert mark.read() == (Blocked("process 7 hangs", needs_reboot=True), DEVICE)
    assert RebootMark(tmp_path, "boot-2").read() is None
    assert list(tmp_path.iterdir()) == [], "it is not looked at again"


def test_a_mark_without_a_device_that_was_examined(tmp_path: Path) -> None:
    mark = RebootMark(tmp_path, "boot-1")
    mark.set("process 7 hangs", None)
    assert mark.read() == (Blocked("process 7 hangs", needs_reboot=True), None)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"boot_id": "boot-1", "why": 1, "device": {"name": 3}}'])
def test_a_mark_of_another_version_holds_for_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "needs-reboot.json").write_bytes(content)
    assert RebootMark(tmp_path, "boot-1").read() is None


def test_a_mark_that_the_disk_does_not_take_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    RebootMark(tmp_path, "boot-1").set("process 7 hangs", DEVICE)
