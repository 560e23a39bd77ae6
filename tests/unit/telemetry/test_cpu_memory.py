"""CPU, RAM and the engine's processes: on trees of files, and for real on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.telemetry.sources.base import FollowsEngine, Source
from agents.telemetry.sources.base import Quantity as Q
from agents.telemetry.sources.cpu import CpuFinder, busy_between, parse_ticks
from agents.telemetry.sources.engine_tree import ProcessStat, descendants, parse_stat
from agents.telemetry.sources.memory import MemoryFinder, field
from agents.telemetry.sources.psutil import PsutilFinder, PsutilSource
from tests.fakes.sensors import Now, cpu, files, process, read
from tests.fakes.sys_tree import write

AMD_SENSOR = {
    "name": "k10temp",
    "temp1_label": "Tctl",
    "temp1_input": 81500,
    "temp3_label": "Tccd1",
    "temp3_input": 70000,
}
INTEL_SENSOR = {"name": "coretemp", "temp1_label": "Package id 0", "temp1_input": 77000, "temp2_label": "Core 0"}
OLD_AMD_SENSOR = AMD_SENSOR | {"temp2_label": "Tdie", "temp2_input": 61500}


@pytest.mark.parametrize(
    ("sensor", "degrees"),
    [
        (AMD_SENSOR, 81.5),
        (OLD_AMD_SENSOR, 61.5),
        (INTEL_SENSOR, 77.0),
        ({"name": "cpu_thermal", "temp1_input": 50000}, 50.0),
    ],
)
def test_cpu(tmp_path: Path, sensor: dict[str, object], degrees: float) -> None:
    cpu(tmp_path, {0: 5_000_000, 1: 2_000_000, 10: 2_000_000}, sensor)
    (source, _), missing = CpuFinder().find(tmp_path)
    clocks = {Q.CPU_CLOCK: 3000e6, Q.CPU_CLOCK_TOP: 5000e6}
    assert missing == []
    assert read(source) == {Q.CPU_BUSY: None, Q.CPU_TEMPERATURE: degrees, **clocks}
    write(tmp_path / "proc/stat", "cpu  1300 50 1100 7450 1100 30 20 50 1300 0\n")
    assert read(source) == {Q.CPU_BUSY: 2350 / 10100 * 100, Q.CPU_TEMPERATURE: degrees, **clocks}
    write(tmp_path / "proc/stat", "cpu  1301 50 1100 7450 1100 30 20 50 1300 0\n")
    assert read(source)[Q.CPU_BUSY] == 2350 / 10100 * 100  # too soon after: the share before stands


def test_a_virtual_machine_shows_less_and_says_so(tmp_path: Path) -> None:
    cpu(tmp_path, {}, {"name": "acpitz"})
    (source, _), missing = CpuFinder().find(tmp_path)
    assert read(source) == {Q.CPU_BUSY: None}
    assert [each.why.split(":")[0] for each in missing] == ["no clocks", "no temperature"]


def test_heat_that_slows_an_intel_cpu(tmp_path: Path) -> None:
    cpu(tmp_path, {}, {"name": "acpitz"})
    folder = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle"
    files(folder, {"package_throttle_count": 4})
    (source, _), _ = CpuFinder().find(tmp_path)
    seen = [read(source)[Q.THROTTLED_HEAT] for _ in range(2)]
    files(folder, {"package_throttle_count": 5})
    assert [*seen, read(source)[Q.THROTTLED_HEAT], read(source)[Q.THROTTLED_HEAT]] == [None, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("data", "ticks"),
    [
        (b"cpu  10 0 10 70 10 0 0 0 9 9\ncpu0 1\n", (20, 100)),
        (b"cpu  10 1 10 70 10 2 3 4\n", (30, 110)),
        (b"cpu  10 0 10 70\n", None),
        (b"cpu0 10 0 10 70 10 0 0 0\n", None),
        (b"cpu  10 0 x 70 10 0 0 0\n", None),
        (b"", None),
        (None, None),
    ],
)
def test_ticks(data: bytes | None, ticks: tuple[int, int] | None) -> None:
    assert parse_ticks(data) == ticks


@pytest.mark.parametrize(
    ("before", "now", "share"),
    [
        ((0, 0), (50, 100), 50.0),
        ((50, 100), (50, 100), None),
        ((50, 100), (40, 200), 0.0),  # iowait went back
        (None, (1, 2), None),
        ((1, 2), None, None),
    ],
)
def test_busy(before: tuple[int, int] | None, now: tuple[int, int] | None, share: float | None) -> None:
    assert busy_between(before, now) == share


MEMINFO = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\nSwapTotal:  50 kB\nSwapFree:   20 kB\n"


def test_memory(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", MEMINFO)
    write(tmp_path / "proc/vmstat", "pgpgin 9\npswpin 1000\npswpout 7\n")
    now = Now()
    (source,), missing = MemoryFinder(now).find(tmp_path)
    fixed = {Q.RAM_USED: 600 * 1024, Q.RAM_TOTAL: 1000 * 1024, Q.SWAP_USED: 30 * 1024}
    assert (read(source), missing) == ({**fixed, Q.SWAP_IN: None}, ())
    now.pass_s(0.5)
    write(tmp_path / "proc/vmstat", "pgpgin 9\npswpin 1256\npswpout 7\n")
    assert read(source) == {**fixed, Q.SWAP_IN: 512 * os.sysconf("SC_PAGE_SIZE")}


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (b"a 1\npswpin 12\nb 3\n", 12),
        (b"pswpin 12\n", 12),
        (b"xpswpin 12\n", None),
        (b"pswpin_more 12\n", None),
        (b"pswpin many\n", None),
        (b"pswpin", None),
        (b"pswpin ", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_field(data: bytes | None, number: float | None) -> None:
    assert field(data, b"pswpin") == number


@pytest.mark.parametrize(
    ("data", "stat"),
    [
        (b"7 (a) S 3" + b" 0" * 9 + b" 20 5" + b" 0" * 8 + b" 99\n", ProcessStat(3, 25, 99)),
        (b"7 (a b) c) R 3" + b" 0" * 9 + b" 20 5" + b" 0" * 8 + b" 99\n", ProcessStat(3, 25, 99)),
        (b"7 (a) S 3 0 0", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_process(data: bytes | None, stat: ProcessStat | None) -> None:
    assert parse_stat(data) == stat


@given(st.dictionaries(st.integers(1, 30), st.integers(0, 30)), st.lists(st.integers(1, 40)))
def test_descendants_end_also_where_parents_run_in_circles(parents: dict[int, int], pids: list[int]) -> None:
    found = descendants(pids, parents)
    assert {pid for pid in pids if pid in parents} <= found <= set(parents)
    assert all(child in found for child, parent in parents.items() if parent in found)


def engine_source(kind: CpuFinder, root: Path) -> Source:
    (_, source), _ = kind.find(root)
    assert isinstance(source, FollowsEngine)
    return source


def test_the_engine(tmp_path: Path) -> None:
    """100 and its child 101; 200 is another's. A process that ends takes its time along, and nothing goes back."""
    write(tmp_path / "proc/stat", "cpu  1 1 1 1 1 1 1 1\n")
    for pid, parent in ((100, 1), (101, 100), (200, 1)):
        process(tmp_path, pid, parent, ticks=1000, pages=10)
    now = Now()
    source = engine_source(CpuFinder(now), tmp_path)
    assert read(source) == {}
    source.follow([100])  # type: ignore[attr-defined]
    page, ticks = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    assert read(source) == {Q.ENGINE_CPU: None, Q.ENGINE_RAM: 20 * page}
    now.pass_s(1)
    process(tmp_path, 100, 1, ticks=1000 + 3 * ticks, pages=30)
    process(tmp_path, 101, 100, ticks=1000 + ticks // 2, pages=10)
    process(tmp_path, 200, 1, ticks=9000, pages=1000)
    assert read(source) == {Q.ENGINE_CPU: 350.0, Q.ENGINE_RAM: 40 * page}
    now.pass_s(1)
    (tmp_path / "proc/101/stat").write_text("")
    process(tmp_path, 100, 1, ticks=1000 + 4 * ticks, pages=30)
    assert read(source) == {Q.ENGINE_CPU: 100.0, Q.ENGINE_RAM: 30 * page}
    source.follow([])  # type: ignore[attr-defined]
    assert read(source) == {}


BUSY = """
import sys
print("ready", flush=True)
while True:
    pass
"""


@pytest.fixture
def busy_process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
        child.kill()


def until(source: Source, quantity: Q, least: float) -> float:
    """Reads until the figure is there; the test's own time limit ends it otherwise."""
    while True:
        value = read(source).get(quantity)
        if value is not None and value >= least:
            return value
        psutil.Process().cpu_times()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no Linux")
@pytest.mark.timeout(60)
def test_this_machine_for_real(busy_process: subprocess.Popen[str]) -> None:
    (cpu_source, engine), _ = CpuFinder().find(Path("/"))
    (memory,), missing = MemoryFinder().find(Path("/"))
    assert isinstance(engine, FollowsEngine)
    engine.follow([busy_process.pid])
    for source, quantity in ((cpu_source, Q.CPU_BUSY), (engine, Q.ENGINE_CPU)):
        assert until(source, quantity, least=1.0) <= (100.0 if quantity is Q.CPU_BUSY else 200.0)
    values = read(memory)
    assert values[Q.RAM_TOTAL] == psutil.virtual_memory().total
    assert 0 < (values[Q.RAM_USED] or 0) < (values[Q.RAM_TOTAL] or 0)
    assert until(memory, Q.SWAP_IN, least=0.0) < 1e10
    assert not missing
    resident = psutil.Process(busy_process.pid).memory_info().rss
    assert read(engine)[Q.ENGINE_RAM] == pytest.approx(resident, rel=0.5)
    for each in (cpu_source, engine, memory):
        each.close()


@pytest.mark.timeout(60)
def test_psutil_for_real(busy_process: subprocess.Popen[str]) -> None:
    source = PsutilSource()
    first = read(source)
    assert first[Q.CPU_BUSY] is None
    assert Q.ENGINE_CPU not in first
    source.follow([busy_process.pid, 2**22 + 7])
    until(source, Q.ENGINE_CPU, least=1.0)
    until(source, Q.CPU_BUSY, least=1.0)
    values = read(source)
    assert values[Q.RAM_TOTAL] == psutil.virtual_memory().total
    assert (values[Q.ENGINE_RAM] or 0) > 2**20
    busy_process.kill()
    busy_process.wait()
    assert read(source)[Q.ENGINE_RAM] is None


def test_psutil_is_only_where_there_is_no_proc(tmp_path: Path) -> None:
    assert [source.name for source in PsutilFinder().find(tmp_path)[0]] == ["psutil"]
    assert [*CpuFinder().find(tmp_path)[0], *MemoryFinder().find(tmp_path)[0]] == []
    cpu(tmp_path, {}, {"name": "acpitz"})
    assert PsutilFinder().find(tmp_path) == ((), ())
