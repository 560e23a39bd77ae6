"""Waiting for what other processes do, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

DEADLINE_S = 60.0  # for a loaded machine; nothing here waits that long on an idle one


def until(true: Callable[[], bool], what: str) -> None:
    """Waits until ``true()``; fails the test after DEADLINE_S."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.005)


def ended(process: psutil.Process) -> bool:
    """Whether a process is gone; a zombie that is not our child is its parent's to reap."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
