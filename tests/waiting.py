"""Waiting for other threads and processes, with a deadline. A test never sleeps instead."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

DEADLINE_S = 60.0  # for a loaded machine; nothing here waits that long on an idle one


def until(
    true: Callable[[], bool],
    what: str | Callable[[], str],
    deadline_s: float = DEADLINE_S,
    poll_s: float = 0.005,
) -> None:
    """Returns when ``true()`` holds, which is asked each ``poll_s``; fails the test after ``deadline_s``.

    ``what`` is waited for; where it is a function, the failure calls it, so that it can describe what there is by then.
    """
    deadline = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(poll_s)


def ended(process: psutil.Process) -> bool:
    """Whether a process is gone; a zombie that is not our child is its parent's to reap."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
