"""Who disturbs: the process, not ours, that uses most CPU just now."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import psutil

LOOK_S = 0.3


def busiest_other(pause: Callable[[float], object]) -> str | None:
    """``cc1plus 4711, 0.9 cores``; None where no process stands out. Costs a look at every process, twice."""
    ours = {psutil.Process().pid}
    with suppress(psutil.Error):
        ours |= {child.pid for child in psutil.Process().children(recursive=True)}
    before = {process: _cpu_s(process) for process in psutil.process_iter() if process.pid not in ours}
    pause(LOOK_S)
    used = {process: _cpu_s(process) - then_s for process, then_s in before.items()}
    process = max(used, key=lambda each: used[each], default=None)
    if process is None or used[process] <= 0:
        return None
    with suppress(psutil.Error):
        return f"{process.name()} {process.pid}, {used[process] / LOOK_S:.1f} cores"
    return None


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
