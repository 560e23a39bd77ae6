"""The sampler's deadlines, stamps, bounds; with sources and a clock that play a script."""

from __future__ import annotations

import json
import queue
from itertools import pairwise
from pathlib import Path

import pytest

from agents.telemetry.sampler import Sampler, find, serve
from agents.telemetry.sources.base import Quantity, Source
from tests.fakes.telemetry import BrokenSource, FakeSource, S, ScriptedClock

BUSY, TOTAL = Quantity.CPU_BUSY, Quantity.RAM_TOTAL


def a_sampler(clock: ScriptedClock, *sources: Source, most: int = 40_000, cpu_ns: list[int] | None = None) -> Sampler:
    used = cpu_ns if cpu_ns is not None else [0]
    return Sampler(sources, clock.monotonic_ns, lambda: used[0], most=most)


def run(sampler: Sampler, clock: ScriptedClock, seconds: float) -> None:
    """As the process would: sleeps to each deadline."""
    end_ns = clock.now_ns + int(seconds * 1e9)
    while sampler.due_ns <= end_ns:
        clock.now_ns = max(clock.now_ns, sampler.due_ns)
        sampler.tick()
    clock.now_ns = end_ns


def test_deadlines_do_not_drift_though_reading_takes_time() -> None:
    clock = ScriptedClock()
    start_ns = clock.now_ns
    source = FakeSource("cpu", BUSY, [1.0], costs=lambda: clock.sleep(0.010))
    sampler = a_sampler(clock, source)
    run(sampler, clock, 1.5)
    stamps = [at_ns - start_ns for at_ns, *_ in sampler.take()]
    grid = [5_000_000 + place * S // 5 for place in range(8)]  # the middle of each reading
    assert stamps == [*grid, 1_505_000_000]


def test_deadlines_that_were_missed_are_left_out() -> None:
    clock = ScriptedClock()
    source = FakeSource("cpu", BUSY, [1.0])
    sampler = a_sampler(clock, source)
    sampler.tick()
    clock.sleep(1.05)  # the machine was busy
    sampler.tick()
    assert source.reads == 2
    assert sampler.due_ns == 1000 * S + 6 * S // 5


def test_a_reading_just_before_a_deadline_will_do() -> None:
    clock = ScriptedClock()
    source = FakeSource("cpu", BUSY, [1.0])
    sampler = a_sampler(clock, source)
    sampler.tick()
    clock.sleep(0.19)
    sampler.take()
    run(sampler, clock, 0.02)
    assert source.reads == 2
    run(sampler, clock, 0.2)
    assert source.reads == 3


def test_a_take_holds_what_came_since_the_one_before_and_ends_with_now() -> None:
    clock = ScriptedClock()
    sampler = a_sampler(clock, FakeSource("cpu", BUSY, [1.0, 2.0, None, 4.0]))
    run(sampler, clock, 0.3)
    assert [value for *_, value in sampler.take()] == [1.0, 2.0, None]
    assert [(at_ns, value) for at_ns, _, _, value in sampler.take()] == [(clock.now_ns, 4.0)]


def test_what_is_steady_is_told_when_it_changes_and_once_a_take() -> None:
    clock = ScriptedClock()
    sampler = a_sampler(clock, FakeSource("memory", TOTAL, [8.0, 8.0, 8.0, 9.0]))
    run(sampler, clock, 1.0)
    assert [value for *_, value in sampler.take()] == [8.0, 9.0]
    assert [value for *_, value in sampler.take()] == [9.0]


def test_a_long_trial_is_read_less_often_and_stays_within_its_bound() -> None:
    clock = ScriptedClock()
    source = FakeSource("cpu", BUSY, [1.0])
    sampler = a_sampler(clock, source, FakeSource("memory", TOTAL, [8.0]), most=100)
    run(sampler, clock, 600.0)
    rows = sampler.take()
    stamps = [at_ns for at_ns, name, *_ in rows if name == "cpu"]
    assert 50 <= len(stamps) <= 101
    assert stamps[0] == 1000 * S and stamps[-1] == clock.now_ns
    assert max(b - a for a, b in pairwise(stamps)) <= 13 * S
    assert [value for _, name, _, value in rows if name == "memory"] == [8.0]
    reads = source.reads
    run(sampler, clock, 1.0)
    assert source.reads - reads == 5  # five times a second again after a take


def test_no_take_waits_for_a_source_that_takes_long() -> None:
    clock = ScriptedClock()
    slow = FakeSource("nvml_pcie:0", BUSY, [1.0], costs=lambda: clock.sleep(0.040))
    quick = FakeSource("cpu", BUSY, [1.0])
    sampler = a_sampler(clock, slow, quick)
    run(sampler, clock, 0.9)
    before_ns = clock.now_ns
    rows = sampler.take()
    assert clock.now_ns == before_ns
    assert [sum(name == each.name for _, name, *_ in rows) for each in (slow, quick)] == [5, 6]


class SpeaksWhenItLikes(FakeSource):
    at_ns: int | None = None


def test_a_sensor_that_speaks_when_it_likes_has_the_times_of_its_words() -> None:
    clock = ScriptedClock()
    start_ns = clock.now_ns
    source = SpeaksWhenItLikes("macmon", BUSY, [1.0, 1.0, 2.0, 2.0, 3.0])
    sampler = a_sampler(clock, source)
    for spoke_ms in (-30, -30, 170, 570):
        source.at_ns = start_ns + spoke_ms * 1_000_000
        run(sampler, clock, 0.199)
        clock.sleep(0.001)
    rows = [((at_ns - start_ns) // 1_000_000, value) for at_ns, *_, value in sampler.take()]
    assert rows == [(-30, 1.0), (170, 2.0), (570, 2.0), (800, 3.0)]  # what it said last holds until the take


def test_a_dear_source_is_read_less_often() -> None:
    clock, used = ScriptedClock(), [0]

    def costs() -> None:
        used[0] += 5_000_000  # 5 ms of CPU: a second of rest

    dear, cheap = FakeSource("gpu", BUSY, [1.0], costs=costs), FakeSource("cpu", BUSY, [1.0])
    run(a_sampler(clock, dear, cheap, cpu_ns=used), clock, 9.99)
    assert (cheap.reads, dear.reads) == (50, 10)


def test_a_source_that_raises_is_told_of_once_and_not_asked_again() -> None:
    clock = ScriptedClock()
    broken, good = BrokenSource("bad", BUSY, [1.0]), FakeSource("cpu", BUSY, [1.0])
    sampler = a_sampler(clock, broken, good)
    run(sampler, clock, 1.0)
    assert (broken.reads, good.reads) == (1, 6)
    assert [(each.source, each.why) for each in sampler.missing] == [("bad", "RuntimeError: a fault")]


def test_a_kind_that_raises_does_not_take_the_others_with_it() -> None:
    class Good:
        name = "good"

        def find(self, root: Path) -> tuple[list[Source], list[object]]:
            return [FakeSource("good", BUSY, [1.0])], []

    class Bad:
        name = "bad"

        def find(self, root: Path) -> tuple[list[Source], list[object]]:
            raise OSError("no driver")

    sources, missing = find([Bad(), Good()], Path("/"))  # type: ignore[list-item]
    assert [source.name for source in sources] == ["good"]
    assert [(each.source, each.why) for each in missing] == [("bad", "OSError: no driver")]


def test_it_writes_only_when_it_is_asked() -> None:
    source = FakeSource("cpu", BUSY, [1.0])
    sampler = Sampler([source], period_s=0.001)
    asked: queue.Queue[dict[str, object] | None] = queue.Queue()
    said: list[bytes] = []
    asked.put({"follow": [7, 8]})
    asked.put({"take": True})
    asked.put(None)
    serve(sampler, asked, said.append)
    (line,) = said
    assert [name for _, name, _, _ in json.loads(line)["values"]] == ["cpu"]
    assert source.followed == [(7, 8)]


@pytest.mark.parametrize("message", [{}, {"hello": 1}])
def test_what_it_does_not_know_it_leaves(message: dict[str, object]) -> None:
    asked: queue.Queue[dict[str, object] | None] = queue.Queue()
    asked.put(message)
    asked.put(None)
    said: list[bytes] = []
    serve(Sampler([]), asked, said.append)
    assert said == []
