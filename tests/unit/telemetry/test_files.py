"""Files held open and counters: what cannot be read is None."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.telemetry.sources.files import CHUNK_BYTES, HeldFile, Rate, first_line
from tests.fakes.sensors import ALWAYS_EIO
from tests.fakes.sys_tree import write

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12\n", 12),
        ("-5\n", -5),
        ("  7  \n", 7),
        ("", None),
        ("N/A\n", None),
        ("1 2\n", None),
        ("0x10\n", None),
        ("1.5", None),
    ],
)
def test_a_number(tmp_path: Path, text: str, number: float | None) -> None:
    write(tmp_path / "x", text)
    file = HeldFile(tmp_path / "x")
    assert file.number() == number
    write(tmp_path / "x", "3\n")
    assert file.number() == 3
    file.close()
    file.close()
    assert (file.number(), file.data(), file.all_data()) == (None, None, None)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    assert HeldFile.open(tmp_path / "none") is None
    with pytest.raises(OSError, match="No such file"):
        HeldFile(tmp_path / "none")


@pytest.mark.skipif(not ALWAYS_EIO.exists(), reason="no Linux")
def test_what_opens_and_cannot_be_read(tmp_path: Path) -> None:
    for path in (ALWAYS_EIO, tmp_path):  # an error of input and output; a folder
        file = HeldFile.open(path)
        assert file is not None
        assert (file.number(), file.data(), file.all_data()) == (None, None, None)
        file.close()


def test_a_file_of_several_pages(tmp_path: Path) -> None:
    text = "x" * (2 * CHUNK_BYTES + 5)
    write(tmp_path / "x", text)
    file = HeldFile(tmp_path / "x")
    assert file.all_data() == text.encode()
    file.close()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no Linux")
def test_a_real_file_that_the_kernel_gives_in_pieces() -> None:
    file = HeldFile(Path("/proc/self/smaps"))
    assert (file.all_data() or b"").count(b"VmFlags") > 100
    file.close()


@pytest.mark.parametrize(
    ("steps", "rates"),
    [
        ([(0, 5), (1, 15), (3, 15)], [None, 10, 0]),
        ([(0, 5), (1, None), (2, 15)], [None, None, 5]),  # a gap is bridged
        ([(0, 5), (1, 2), (2, 4)], [None, None, 2]),  # a counter that was set back
        ([(0, 5), (0.02, 900), (1, 15)], [None, None, 10]),  # too soon
        ([(0, 5), (1, 15), (1.04, 900), (2, 20)], [None, 10, 10, 5]),
        ([(0, 5), (0, 6)], [None, None]),
    ],
)
def test_a_rate(steps: list[tuple[float, float | None]], rates: list[float | None]) -> None:
    rate = Rate()
    assert [rate.step(total, round(at_s * SECOND)) for at_s, total in steps] == rates


@pytest.mark.parametrize(("now", "gained"), [(2, 7), (4, 9), (8, 3)])
def test_a_counter_that_wraps_at_10(now: float, gained: float) -> None:
    rate = Rate(wraps_at=10)
    rate.step(5, 0)
    assert rate.step(now, SECOND) == gained


def test_first_line(tmp_path: Path) -> None:
    write(tmp_path / "x", " amdgpu \nmore")
    (tmp_path / "noise").write_bytes(b"\xff\xfe\n")
    assert (first_line(tmp_path / "x"), first_line(tmp_path / "none"), first_line(tmp_path)) == ("amdgpu", "", "")
    assert first_line(tmp_path / "noise")
