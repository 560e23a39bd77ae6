"""The model store's lock, and what a failure of its disk is called."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from filelock import FileLock

from agents.contract.report import Cause
from agents.errors import LoadFailed
from agents.models.store import disk


def test_who_waits_for_another_process_notifies_again_and_again_and_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "WAIT_S", 0.01)
    seen: list[str] = []

    def notify(words: str) -> None:
        seen.append(words)
        if len(seen) == 3:
            raise LoadFailed(Cause.CANCELLED, "cancelled")

    held, cancelled = FileLock(tmp_path / ".m.gguf.lock"), pytest.raises(LoadFailed, match="cancelled")
    with held, cancelled, disk.locked(tmp_path / "m.gguf", notify):
        raise AssertionError("two at a time")
    assert seen == ["waiting for another process that makes m.gguf"] * 3
    with disk.locked(tmp_path / "m.gguf", notify):
        pass


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOSPC, Cause.DISK_FULL),
        (errno.EDQUOT, Cause.DISK_FULL),
        (errno.EFBIG, Cause.DISK_FULL),
        (errno.EIO, Cause.DISK_FAULT),
        (errno.EROFS, Cause.DISK_FAULT),
        (errno.EACCES, Cause.LOAD_FAILED),
    ],
)
def test_the_cause_of_a_failure_of_the_disk(number: int, cause: Cause) -> None:
    assert disk.os_failure(OSError(number, os.strerror(number)), "cannot store m.gguf").cause is cause
