"""Sources that are programs of their own: what they print, and programs that stand for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agents.telemetry.sources.base import Quantity as Q
from agents.telemetry.sources.base import Source
from agents.telemetry.sources.child_lines import STALE_S, ChildLines
from agents.telemetry.sources.macmon import MacmonFinder
from agents.telemetry.sources.macmon import values_of as macmon_values
from agents.telemetry.sources.windows import SCRIPT, WindowsFinder
from agents.telemetry.sources.windows import values_of as windows_values
from tests.fakes.sensors import Now
from tests.fakes.sys_tree import write

RECORDINGS = Path("tests/recordings/telemetry")
MACMON = (RECORDINGS / "macmon.jsonl").read_text().splitlines()
WINDOWS = (RECORDINGS / "windows.txt").read_text().splitlines()

PRINTS = """
import sys, pathlib
print(pathlib.Path(sys.argv[1]).read_text(), flush=True)
sys.stdin = None
import signal
signal.pause()
"""


def printing(path: Path) -> tuple[str, ...]:
    """A program that prints a file and then waits to be ended."""
    return (sys.executable, "-c", PRINTS, str(path))


def test_macmon() -> None:
    full, idle, old = (dict(macmon_values(line)) for line in MACMON)
    assert full == {
        **{Q.GPU_BUSY: 75.0, Q.GPU_CLOCK: 461e6, Q.CPU_CLOCK_TOP: 1800e6},
        **{Q.GPU_POWER: 12.5, Q.PACKAGE_POWER: 12.75, Q.SYSTEM_POWER: 25.5},
        **{Q.CPU_TEMPERATURE: 43.5, Q.GPU_TEMPERATURE: 36.25},
    }
    assert [idle[each] for each in (Q.GPU_BUSY, Q.GPU_POWER, Q.SYSTEM_POWER, Q.CPU_TEMPERATURE)] == [0, 0, None, None]
    assert (old[Q.GPU_BUSY], old[Q.GPU_POWER]) == (None, 12.5)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "null",
        '{"temp": 5, "gpu_power": "much", "gpu_active_ratio": true}',
        '{"gpu_power": NaN}',
        '{"gpu_power": 1e999}',
        '{"gpu_power": 1%s}' % ("0" * 400),
    ],
)
def test_macmon_says_nonsense(line: str) -> None:
    assert {value for _, value in macmon_values(line)} == {None}


def test_windows() -> None:
    assert dict(windows_values(WINDOWS)) == {
        **{Q.COPY_BUSY: 55.0, Q.COMPUTE_BUSY: 80.0, Q.GRAPHICS_BUSY: 17.0, Q.VIDEO_BUSY: 7.0, Q.GPU_BUSY: 80.0},
        **{Q.VRAM_USED: 20401094656 + 1048576, Q.GTT_USED: 268435456},
    }


@pytest.mark.parametrize(
    ("lines", "copy"),
    [
        ((), None),
        ((".",), None),
        (("E,pid_1_luid_0x0_0x1_phys_0_eng_1_engtype_Copy,9", "."), None),  # no adapter tells of its memory
        (("M,luid_0x0_0x1_phys_0,5,6",), 0.0),  # nothing is busy
        (("M,luid_0x0_0x1_phys_0,5,6", "E,pid_1_luid_0x0_0x1_phys_0_eng_1_engtype_Copy,x", "E,,5", "E", "noise"), 0.0),
        (("M,luid_0x0_0x1_phys_0,5,6", "E,pid_1_luid_0x0_0x1_phys_0_eng_1_engtype_Copy,140"), 100.0),
    ],
)
def test_windows_says_little(lines: tuple[str, ...], copy: float | None) -> None:
    assert dict(windows_values(lines))[Q.COPY_BUSY] == copy


def test_the_script_needs_no_quotes_of_a_shell() -> None:
    assert '"' not in SCRIPT
    assert SCRIPT.count("{") == SCRIPT.count("}")


def wait_for(source: Source, quantity: Q) -> float:
    """The test's own time limit ends it otherwise."""
    while True:
        if (value := dict(source.read())[quantity]) is not None:
            return value


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("kind", "name", "quantity", "value"),
    [(MacmonFinder, "macmon.jsonl", Q.PACKAGE_POWER, 12.75), (WindowsFinder, "windows.txt", Q.COPY_BUSY, 55.0)],
)
def test_a_program_is_read_and_ended(
    tmp_path: Path, kind: type[MacmonFinder] | type[WindowsFinder], name: str, quantity: Q, value: float
) -> None:
    before = {child.pid for child in psutil.Process().children()}
    (source,), missing = kind(printing(RECORDINGS / name)).find(tmp_path)
    assert (wait_for(source, quantity), missing) == (value, ())
    source.close()
    assert {child.pid for child in psutil.Process().children()} <= before


@pytest.mark.parametrize(("kind", "name"), [(MacmonFinder, "macmon"), (WindowsFinder, "windows")])
def test_a_program_that_does_not_start(
    tmp_path: Path, kind: type[MacmonFinder] | type[WindowsFinder], name: str
) -> None:
    sources, (missing,) = kind([str(tmp_path / "none")]).find(tmp_path)
    assert (sources, missing.source, "does not start" in missing.why) == ((), name, True)


def test_linux_under_windows_without_its_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path / "proc/version", "Linux version 6.6.87.2-microsoft-standard-WSL2 (gcc)\n")
    sources, (missing,) = WindowsFinder().find(tmp_path)
    assert (sources, "wsl.conf" in missing.todo) == ((), True)


@pytest.mark.skipif(sys.platform != "linux", reason="no Linux")
@pytest.mark.parametrize("kind", [MacmonFinder, WindowsFinder])
def test_plain_linux(tmp_path: Path, kind: type[MacmonFinder] | type[WindowsFinder]) -> None:
    sources, (missing,) = kind().find(tmp_path)
    assert (sources, missing.todo) == ((), "")


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def lines(tmp_path: Path, now: Now) -> Iterator[ChildLines]:
    write(tmp_path / "out", "a 1\nb 1\nend\na 2\nend\na 3\n")
    child = ChildLines(printing(tmp_path / "out"), lambda line: line == "end", now)
    yield child
    child.close()


def newest(lines: ChildLines, wanted: tuple[str, ...]) -> None:
    while (sample := lines.sample()) is None or sample.lines != wanted:
        pass


@pytest.mark.timeout(60)
def test_the_newest_complete_sample_counts_until_it_is_old(lines: ChildLines, now: Now) -> None:
    newest(lines, ("a 2", "end"))
    now.pass_s(STALE_S)
    newest(lines, ("a 2", "end"))
    now.pass_s(0.1)
    assert lines.sample() is None


@pytest.mark.timeout(60)
def test_a_program_that_will_not_end_is_killed(tmp_path: Path, now: Now) -> None:
    text = "import signal; signal.signal(15, signal.SIG_IGN); print('end', flush=True); signal.pause()"
    child = ChildLines((sys.executable, "-c", text), lambda line: line == "end", now)
    newest(child, ("end",))
    child.close()
    assert not [each for each in psutil.Process().children() if text in each.cmdline()]


@pytest.mark.timeout(60)
def test_a_program_that_ends_by_itself(now: Now) -> None:
    child = ChildLines((sys.executable, "-c", "print('x')"), lambda line: line == "end", now)
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert child.sample() is None
    child.close()
