"""The sampler: ``python -m agents.telemetry.sampler``, a process of its own: no interpreter shared with the stream.

JSON lines on stdin: ``{"follow": [pid, ...]}`` (the engine's processes) and ``{"take": true}``. A take, and nothing
else, is answered with a line on stdout: ``{"values": [[at_ns, source, quantity, value], ...], "missing": [[source, why,
todo], ...], "averaging": [source, ...]}``: what was read since the take before, last of all just now, and the sources
whose power is a mean since their reading before. The process ends when stdin does.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agents.telemetry.sources.base import (
    AveragesPower,
    FollowsEngine,
    Missing,
    Quantity,
    Source,
    SourceFinder,
    Timestamped,
)

PERIOD_S = 0.2
MOST_VALUES = 40_000
"""Held until they are taken. Past that every second reading is dropped and the period doubled: 30 figures five times a
second fill it in four minutes, and an hour in one piece is read every 3 s."""
CPU_SHARE = 0.005  # of a core, for one source: one that costs more is read less often
LONG_S = 0.01  # a source that takes longer is left out of takes: a job waits for those
STEADY = frozenset(
    {
        *(Quantity.VRAM_TOTAL, Quantity.GTT_TOTAL, Quantity.RAM_TOTAL),
        *(Quantity.POWER_LIMIT, Quantity.ON_MAINS, Quantity.BATTERY_CHARGE),
    }
)
"""Kept when they change, and once in each take."""

Row = tuple[int, str, str, float | None]


class Sampler:
    """Reads sources at absolute deadlines. ``now_ns`` is the clock that stamps streams; ``cpu_ns`` this process's."""

    def __init__(
        self,
        sources: Sequence[Source],
        now_ns: Callable[[], int] = time.perf_counter_ns,
        cpu_ns: Callable[[], int] = time.process_time_ns,
        period_s: float = PERIOD_S,
        most: int = MOST_VALUES,
    ) -> None:
        self.missing: list[Missing] = []
        self.averaging = [source.name for source in sources if isinstance(source, AveragesPower)]
        self._sources = list(sources)
        self._now_ns, self._cpu_ns = now_ns, cpu_ns
        self._first_period_ns = self._period_ns = int(period_s * 1e9)
        self._most = most
        self._ticks: list[list[Row]] = []
        self._count = 0
        self._steady: dict[tuple[str, str], float | None] = {}
        self._rests_until_ns: dict[str, int] = {}
        self._took_ns: dict[str, int] = {}  # the reading before
        self._stamped_ns: dict[str, int] = {}
        self._last_ns = -self._period_ns
        self.due_ns = now_ns()

    def follow(self, pids: Sequence[int]) -> None:
        for source in self._sources:
            if isinstance(source, FollowsEngine):
                source.follow(pids)

    def tick(self) -> None:
        """At a deadline. A reading that was taken just before it will do; a deadline that was missed is left out."""
        # A take may have read everything just before this deadline: reading twice would cost twice and say the same.
        if self._now_ns() - self._last_ns > self._first_period_ns // 4:
            self._read(everything=False)
        # Deadlines stay on one grid, so that a slow reading makes a gap and no drift.
        late = max(self._now_ns() - self.due_ns, 0) // self._period_ns
        self.due_ns += (late + 1) * self._period_ns

    def take(self) -> list[Row]:
        """All that is held, and a reading just now, but of sources that take long."""
        self._read(everything=True)
        rows = [row for tick in self._ticks for row in tick]
        self._ticks, self._count = [], 0
        self._steady.clear()  # each take has every value once, for the job that it is of may look at no other
        if self._period_ns > self._first_period_ns:
            self._period_ns = self._first_period_ns
            self.due_ns = self._now_ns() + self._period_ns
        return rows

    def _read(self, everything: bool) -> None:
        rows: list[Row] = []
        for source in tuple(self._sources):
            before_ns = self._now_ns()
            if self._is_skipped(source, before_ns, everything):
                continue
            cpu_ns = self._cpu_ns()
            try:
                values = source.read()
            except Exception as error:  # a source must not; one that does is not asked again
                self._sources.remove(source)
                self.missing.append(Missing(source.name, f"{type(error).__name__}: {error}", "please report it"))
                continue
            after_ns = self._now_ns()
            # The more CPU a source costs, the longer it is not read, so that all of its readings cost CPU_SHARE.
            self._rests_until_ns[source.name] = before_ns + int((self._cpu_ns() - cpu_ns) / CPU_SHARE)
            self._took_ns[source.name] = after_ns - before_ns
            for at_ns in self._stamps(source, (before_ns + after_ns) // 2, everything):
                rows += [
                    (at_ns, source.name, str(kind), value)
                    for kind, value in values
                    if self._is_new(source, kind, value)
                ]
        self._last_ns = self._now_ns()
        self._keep(rows)

    def _is_skipped(self, source: Source, now_ns: int, everything: bool) -> bool:
        if everything:
            return self._took_ns.get(source.name, 0) > LONG_S * 1e9
        return now_ns < self._rests_until_ns.get(source.name, 0)

    def _stamps(self, source: Source, now_ns: int, everything: bool) -> list[int]:
        """Now; of a sensor that sends when it likes: when it sent, once, and in a take also now, for it still holds."""
        stamped_ns = source.at_ns if isinstance(source, Timestamped) else None
        if stamped_ns is None:
            return [now_ns]
        is_new = self._stamped_ns.get(source.name) != stamped_ns
        self._stamped_ns[source.name] = stamped_ns
        return [*([stamped_ns] if is_new else []), *([now_ns] if everything else [])]

    def _is_new(self, source: Source, kind: Quantity, value: float | None) -> bool:
        if kind not in STEADY:
            return True
        key = (source.name, kind)
        if key in self._steady and self._steady[key] == value:
            return False
        self._steady[key] = value
        return True

    def _keep(self, rows: list[Row]) -> None:
        self._ticks.append(rows)
        self._count += len(rows)
        if self._count > self._most and len(self._ticks) > 1:
            # Half as dense, and not half as long: the job's beginning matters as much as its end.
            self._ticks = [
                tick if at % 2 == 0 else [row for row in tick if row[2] in STEADY]
                for at, tick in enumerate(self._ticks)
            ]
            self._ticks = [tick for tick in self._ticks if tick]
            self._count = sum(map(len, self._ticks))
            self._period_ns *= 2


def find(kinds: Sequence[SourceFinder], root: Path) -> tuple[list[Source], list[Missing]]:
    """All sources of this machine, in the order of ``kinds``. One kind's fault is not the others'."""
    sources: list[Source] = []
    missing: list[Missing] = []
    for kind in kinds:
        try:
            found, not_found = kind.find(root)
        except Exception as error:
            missing.append(Missing(kind.name, f"{type(error).__name__}: {error}", "please report it"))
            continue
        sources += found
        missing += not_found
    return sources, missing


def serve(sampler: Sampler, requests: queue.Queue[dict[str, Any] | None], answer: Callable[[bytes], None]) -> None:
    """Until ``requests`` gives None."""
    while True:
        try:
            message = requests.get(timeout=max(sampler.due_ns - time.perf_counter_ns(), 0) / 1e9)
        except queue.Empty:
            sampler.tick()
            continue
        if message is None:
            return
        if "follow" in message:
            sampler.follow([int(pid) for pid in message["follow"]])
        elif "take" in message:
            values = sampler.take()
            missing = [(each.source, each.why, each.todo) for each in sampler.missing]
            sampler.missing = []
            batch = {"values": values, "missing": missing, "averaging": sampler.averaging}
            answer(json.dumps(batch, separators=(",", ":")).encode() + b"\n")


def _listen(requests: queue.Queue[dict[str, Any] | None]) -> None:
    with suppress(OSError, ValueError):
        for line in sys.stdin.buffer:
            requests.put(json.loads(line))
    requests.put(None)


def _answer(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def main() -> None:
    from agents.telemetry.sources import SOURCES

    requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), name="stdin", daemon=True).start()
    sources, missing = find(SOURCES, Path("/"))
    sampler = Sampler(sources)
    sampler.missing += missing
    with suppress(BrokenPipeError):  # who asked is gone
        serve(sampler, requests, _answer)
    for source in sources:
        with suppress(Exception):
            source.close()  # some have a program of their own running
    os._exit(0)  # a source's library may keep threads


if __name__ == "__main__":
    main()
