"""A clock that stands still, sources that play values, and a sampler whose readings follow a script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agents.contract.measure import Reading
from agents.telemetry.sampling import Batch, Row
from agents.telemetry.sources.base import Missing, Quantity, Value

S = 1_000_000_000


@dataclass
class ScriptedClock:
    """Moves when it is told to. The wall clock goes with it, unless ``wall_off_s`` is set."""

    now_ns: int = 1000 * S
    wall_off_s: float = 0.0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def unix_s(self) -> float:
        return self.now_ns / 1e9 + 1_700_000_000 + self.wall_off_s

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


class WaitingEvent(threading.Event):
    """An event whose waits move the clock, and that keeps how long they were."""

    def __init__(self, clock: ScriptedClock) -> None:
        super().__init__()
        self._clock = clock
        self.waited_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s.append(timeout or 0.0)
        self._clock.sleep(timeout or 0.0)
        return self.is_set()


@dataclass
class FakeSource:
    """Plays ``values`` one a reading, the last one again and again; ``costs`` is told of each reading."""

    name: str
    quantity: Quantity
    values: list[float | None]
    costs: Callable[[], None] = lambda: None
    followed: list[tuple[int, ...]] = field(default_factory=list)
    reads: int = 0

    def read(self) -> Sequence[Value]:
        self.reads += 1
        self.costs()
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        return [(self.quantity, value)]

    def follow(self, pids: Sequence[int]) -> None:
        self.followed.append(tuple(pids))

    def close(self) -> None:
        pass


class BrokenSource(FakeSource):
    def read(self) -> Sequence[Value]:
        self.reads += 1
        raise RuntimeError("a fault")


Machine = Callable[[float], dict[tuple[str, Quantity], float]]
"""What the machine shows at a time, s on the scripted clock since its start."""


class ScriptedSampler:
    """Reads ``machine`` five times a second, up to the moment of each take."""

    def __init__(self, clock: ScriptedClock, machine: Machine, missing: tuple[Missing, ...] = ()) -> None:
        self._clock, self._machine, self._missing = clock, machine, missing
        self._start_ns = self._next_ns = clock.now_ns
        self.followed: list[tuple[int, ...]] = []
        self.closed = False

    def follow(self, pids: Sequence[int]) -> None:
        self.followed.append(tuple(pids))

    def take(self) -> Batch:
        rows: list[Row] = []
        while self._next_ns < self._clock.now_ns:
            rows += self._read(self._next_ns)
            self._next_ns += S // 5
        rows += self._read(self._clock.now_ns)
        missing, self._missing = self._missing, ()
        return Batch(rows, missing)

    def _read(self, at_ns: int) -> list[Row]:
        shown = self._machine((at_ns - self._start_ns) / 1e9)
        return [(at_ns, source, str(quantity), value) for (source, quantity), value in shown.items()]

    def close(self) -> None:
        self.closed = True


def readings(
    source: str, quantity: Quantity, values: Sequence[float | None], from_s: float = 0.0, every_s: float = 0.2
) -> list[Reading]:
    """One series, at equal distances."""
    return [
        Reading(from_s + every_s * place, source, quantity, value, quantity.unit) for place, value in enumerate(values)
    ]
