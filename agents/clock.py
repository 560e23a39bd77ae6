"""Time is handed in. Monotonic seconds measure; wall-clock seconds only label."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic_ns(self) -> int: ...
    def unix_s(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """``perf_counter_ns`` (CLOCK_MONOTONIC on Linux): never set back, one clock for all processes of a host."""

    monotonic_ns = staticmethod(time.perf_counter_ns)
    unix_s = staticmethod(time.time)
    sleep = staticmethod(time.sleep)
